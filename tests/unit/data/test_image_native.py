"""What `probe` calls native, DALI decodes to the pixels of `decode_rgb`, bit for bit on the CPU."""

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from fastlt.data.image import decode_rgb, probe

dali = pytest.importorskip("nvidia.dali")


def write_variants(folder):
    noise = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((211, 137), Image.Resampling.BICUBIC)
    for sampling in (0, 1, 2, "4:1:1"):
        for progressive in (False, True):
            name = f"{str(sampling).replace(':', '')}-{'progressive' if progressive else 'baseline'}.jpg"
            image.save(folder / name, subsampling=sampling, progressive=progressive)
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    gamma = PngImagePlugin.PngInfo()
    gamma.add(b"gAMA", (90910).to_bytes(4))
    image.save(folder / "exif.jpg", exif=exif)
    image.save(folder / "icc.jpg", icc_profile=profile)
    image.save(folder / "restart.jpg", restart_marker_rows=1)
    image.convert("L").save(folder / "grey.jpg")
    image.resize((1, 1)).save(folder / "dot.jpg")
    image.save(folder / "plain.png")
    image.convert("L").save(folder / "grey.png")
    image.save(folder / "exif.png", exif=exif)
    image.save(folder / "icc.png", icc_profile=profile)
    image.save(folder / "gamma.png", pnginfo=gamma)
    (folder / "trailing.jpg").write_bytes((folder / "2-baseline.jpg").read_bytes() + bytes(999))
    (folder / "misnamed.jpg").write_bytes((folder / "plain.png").read_bytes())


def test_native_files_decode_to_the_same_pixels(tmp_path):
    write_variants(tmp_path)
    files = sorted(tmp_path.iterdir())
    assert all(probe(file).native for file in files)

    @dali.pipeline_def(batch_size=len(files), num_threads=1, device_id=None)
    def decode():
        encoded, _ = dali.fn.readers.file(files=[str(file) for file in files])
        return dali.fn.decoders.image(encoded, output_type=dali.types.RGB, adjust_orientation=False)

    pipeline = decode()
    (decoded,) = pipeline.run()
    for at, file in enumerate(files):
        np.testing.assert_array_equal(np.asarray(decoded[at]), decode_rgb(file), err_msg=file.name)
