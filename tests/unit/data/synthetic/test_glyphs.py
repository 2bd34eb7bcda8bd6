import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from fastlt.data.synthetic.glyphs import CHARACTERS, GlyphSpec, build_glyphs_lt, font_folder, glyphs_lt, split_counts
from fastlt.data.synthetic.painting import FACES, Look, Style, paint

SMALL = GlyphSpec(max_count=3, min_count=1, val_per_class=1, test_per_class=1, look=Look(size=16))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def contents(root):
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def test_there_are_a_hundred_characters_in_twelve_faces():
    assert len(CHARACTERS) == len(set(CHARACTERS)) == 100
    assert len(FACES) == len(set(FACES)) == 12


def silhouettes():
    """Every character in every face, cropped and scaled to one size: [characters, faces, pixels]."""
    side = 24
    rendered = []
    for character in CHARACTERS:
        row = []
        for face in FACES:
            font = ImageFont.truetype(str(font_folder() / face), 64, layout_engine=ImageFont.Layout.BASIC)
            canvas = Image.new("L", (160, 160))
            ImageDraw.Draw(canvas).text((48, 40), character, font=font, fill=255)
            glyph = canvas.crop(canvas.getbbox())
            glyph.thumbnail((side, side), Image.Resampling.BOX)
            framed = Image.new("L", (side + 4, side + 4))
            framed.paste(glyph, ((side + 4 - glyph.width) // 2, (side + 4 - glyph.height) // 2))
            row.append(np.asarray(framed.filter(ImageFilter.GaussianBlur(1)), np.float64))
        rendered.append(row)
    return np.array(rendered)


def normalised(images):
    flat = images.reshape(len(images), len(FACES), -1)
    flat = flat - flat.mean(axis=2, keepdims=True)
    return (flat / np.linalg.norm(flat, axis=2, keepdims=True)).reshape(len(images) * len(FACES), -1)


def test_no_two_characters_share_a_shape_in_any_face_nor_in_a_mirror():
    images = silhouettes()
    plain, mirrored = normalised(images), normalised(images[:, :, :, ::-1])
    similarity = np.maximum(plain @ plain.T, plain @ mirrored.T).reshape(100, 12, 100, 12)
    closest = similarity.max(axis=(1, 3))
    pairs = [(CHARACTERS[i] + CHARACTERS[j], closest[i, j]) for i in range(100) for j in range(i)]
    # Whatever the faces; one shape correlates with itself at 1, look-alikes such as o and O at 0.9 and more.
    assert [pair for pair, value in pairs if value > 0.88] == []


def test_the_measure_of_likeness_sees_look_alikes(monkeypatch):
    for pair in ("oO", "sS", "AА", "bd", "pq", "NИ", "()"):
        monkeypatch.setattr(sys.modules[__name__], "CHARACTERS", pair)
        images = silhouettes()
        plain, mirrored = normalised(images), normalised(images[:, :, :, ::-1])
        similarity = np.maximum(plain @ plain.T, plain @ mirrored.T).reshape(2, 12, 2, 12)
        assert similarity[0, :, 1].max() > 0.88, pair


def test_counts_are_those_of_the_issue():
    counts = split_counts(GlyphSpec())
    assert counts["train"].max() == 400
    assert counts["train"].min() == 4
    assert 8000 < counts["train"].sum() < 11000
    assert set(counts["val"]) == {20}
    assert set(counts["test"]) == {30}
    few = {CHARACTERS[i] for i in np.flatnonzero(counts["train"] < 20)}
    assert any(character.isascii() for character in few)
    assert any(not character.isascii() for character in few)
    assert sorted(counts["train"]) == sorted(split_counts(GlyphSpec(seed=1))["train"])
    assert (counts["train"] != split_counts(GlyphSpec(seed=1))["train"]).any()


def test_the_splits_are_balanced_and_named_legibly():
    splits = glyphs_lt(SMALL, num_workers=1)
    assert list(splits) == ["train", "val", "test"]
    assert splits["train"].class_names == tuple(sorted(CHARACTERS))
    assert splits["train"].class_counts.tolist() == split_counts(SMALL)["train"].tolist()
    assert set(splits["val"].class_counts) == {1}
    assert splits["train"].native.all()
    assert (splits["train"].sizes == 16).all()
    assert all(name.isascii() for name in splits["train"].paths)


def test_the_number_of_workers_changes_no_byte(monkeypatch, tmp_path):
    done = []
    one = contents(build_glyphs_lt(SMALL, num_workers=1, progress=done.append))
    assert sum(done) == len(one) - 1 == sum(int(counts.sum()) for counts in split_counts(SMALL).values())
    monkeypatch.setenv("FASTLT_CACHE", str(tmp_path / "other"))
    assert contents(build_glyphs_lt(SMALL, num_workers=3)) == one
    images = [content for name, content in one.items() if name.endswith(".jpg")]
    assert len(set(images)) == len(images)


def test_it_is_built_once(monkeypatch):
    root = build_glyphs_lt(SMALL, num_workers=1)
    monkeypatch.setattr("fastlt.data.synthetic.glyphs.paint_all", None)
    assert build_glyphs_lt(SMALL) == root


def test_an_interruption_leaves_nothing_behind(cache):
    def interrupt(count):
        raise KeyboardInterrupt

    for workers in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            build_glyphs_lt(SMALL, num_workers=workers, progress=interrupt)
        assert list(cache.glob("datasets/*")) == []
    assert build_glyphs_lt(SMALL, num_workers=1).is_dir()


def test_a_second_process_waits_for_the_first_ones_result(cache):
    program = (
        "from fastlt.data.synthetic import glyphs; from fastlt.data.synthetic.painting import Look; "
        "from fastlt.data.synthetic.glyphs import GlyphSpec; glyphs.paint_all = None; "
        f"print(glyphs.build_glyphs_lt({SMALL!r}, num_workers=1))"
    )
    rivals = []

    def start_rival(count):
        if not rivals:
            rivals.append(subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True))

    root = build_glyphs_lt(SMALL, num_workers=1, progress=start_rival)
    output, _ = rivals[0].communicate()
    assert Path(output.strip()) == root
    assert [entry.name for entry in (cache / "datasets").iterdir()] == [root.name]


def test_another_spec_is_another_data_set():
    assert build_glyphs_lt(SMALL, num_workers=1) != build_glyphs_lt(
        GlyphSpec(max_count=3, min_count=1, val_per_class=1, test_per_class=1, look=Look(size=17)), num_workers=1
    )


def test_every_draw_is_keyed():
    def draw(**keys):
        keys = {"seed": 0, "stream": 0, "label": 0, "number": 0, **keys}
        return paint(Style(character="Ж"), Look(), font_folder(), **keys)

    assert draw() == draw()
    others = [draw(seed=1), draw(stream=1), draw(label=1), draw(number=1)]
    assert len({draw(), *others}) == 5


def test_noise_has_its_standard_deviation():
    flat = Look(size=64, ink=(128, 128), ground=(128, 128), noise=12.0, quality=100)
    pixels = [
        np.asarray(Image.open(io.BytesIO(paint(
            Style(character="A"), flat, font_folder(), seed=0, stream=0, label=0, number=number))).convert("YCbCr"))
        for number in range(4)
    ]  # fmt: skip
    luma = np.stack(pixels)[..., 0].astype(float)
    # Independent noise in three channels, weighted as luma weights them.
    assert luma.std() == pytest.approx(12 * np.sqrt(0.299**2 + 0.587**2 + 0.114**2), rel=0.03)
    assert luma.mean() == pytest.approx(128, abs=1)


@pytest.mark.skipif(PIL.__version__ != "13.0.0", reason="another Pillow draws and encodes by other bits")
def test_the_bytes_are_those_of_every_machine():
    digest = hashlib.sha256()
    for label, character in enumerate(sorted(CHARACTERS)):
        digest.update(paint(Style(character=character), Look(), font_folder(), seed=0, stream=0, label=label, number=0))
    assert digest.hexdigest()[:16] == "4bbd3b08af1ec345"


def test_painters_need_no_main_guard(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from fastlt.data.synthetic.glyphs import GlyphSpec, build_glyphs_lt\n"
        "from fastlt.data.synthetic.painting import Look\n"
        f"print(build_glyphs_lt({SMALL!r}, num_workers=2))\n"
    )
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=os.environ)
    assert run.returncode == 0, run.stderr
    assert Path(run.stdout.strip()).is_dir()
