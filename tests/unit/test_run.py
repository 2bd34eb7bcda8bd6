"""What a run folder says that is damaged."""

from pathlib import Path

import pytest

from fastlt import Run


def test_a_record_of_data_that_lacks_a_part_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text('{"class_names": ["ant"], "class_counts": [2]}')
    with pytest.raises(ValueError, match=rf"^{path}: got no splits\b"):
        _ = Run(tmp_path).data
