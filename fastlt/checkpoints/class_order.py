"""Map the order of classes in a checkpoint from elsewhere to that of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..runtime.log import log, name_some

MAX_NAME = 1000  # characters; no folder has a longer one


def settle_order(
    path: Path, settings: Mapping[str, Any], classes: Path | None, class_names: Sequence[str]
) -> tuple[int, ...]:
    """Return for each class of the data its row in the checkpoint's head.

    Args:
        path: The checkpoint, for messages.
        settings: The checkpoint's config.json.
        classes: A file with the checkpoint's class names in its own order, or None.
        class_names: The data's classes, in the data's order.

    Raises:
        ValueError, FileNotFoundError: The names are not those of the data, each once, or the file does not exist.
    """
    if classes is not None:
        if not classes.is_file():
            raise FileNotFoundError(f"--classes: got {classes}, which does not exist; expected a class name a line")
        try:
            lines = classes.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"--classes: got {classes}, which is not text; expected a class name a line") from error
        return order_of([line.strip() for line in lines if line.strip()], class_names, "--classes", str(classes))
    names = own_names(path, settings)
    # Names of another kind (LABEL_0, or tench for n01440764) do not tell the order; a partial match is a mistake
    if set(names) & set(class_names):
        order = order_of(names, class_names, str(path), "a config.json", ", or give --classes FILE to overrule it")
        log.info("%s: classes in the order of its config.json", path)
        return order
    log.info("%s: classes taken to be in the data's order, %s ... (--classes FILE for another)", path, class_names[0])
    return tuple(range(len(class_names)))


def own_names(path: Path, settings: Mapping[str, Any]) -> list[str]:
    """Return the class names in a config.json, in its order, as written by transformers or timm."""
    config = settings.get("config", {})
    labels, names = config.get("id2label"), config.get("label_names")
    if isinstance(labels, dict) and labels:
        indices = [str(index) for index in range(len(labels))]
        if not labels.keys() <= set(indices):
            raise ValueError(
                f"{path}: got a config.json with an id2label whose keys are not the numbers from 0 to "
                f"{len(labels) - 1}; expected class indices; correct or drop it"
            )
        return [str(labels[index])[:MAX_NAME] for index in indices]
    return [str(name)[:MAX_NAME] for name in names] if isinstance(names, list) else []


def order_of(
    names: Sequence[str], class_names: Sequence[str], what: str, source: str, remedy: str = ""
) -> tuple[int, ...]:
    """Return the place of every class of the data in `names`; errors blame `what` and call the list `source`."""
    places = {name: place for place, name in enumerate(names)}
    if len(places) < len(names):
        faults = [f"it names {next(name for name in names if names.count(name) > 1)} twice"]
    else:
        missing = [name for name in class_names if name not in places]
        unknown = [name for name in names if name not in set(class_names)]
        faults = [f"it lacks {name_some(missing, 3)}"] if missing else []
        faults += [f"the data have no {name_some(unknown, 3)}"] if unknown else []
    if faults:
        raise ValueError(
            f"{what}: got {source} of {len(names)} names that do not match the data's {len(class_names)} classes: "
            f"{'; '.join(faults)}; expected each class name (folder name) once, in the checkpoint's order; correct "
            f"it{remedy}"
        )
    return tuple(places[name] for name in class_names)
