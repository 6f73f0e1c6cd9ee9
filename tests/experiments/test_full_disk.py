"""A disk that is full in the middle of a study: one sentence, and with room the same study finishes."""

import shutil

import pytest

from mgcl_core.experiments.study import Study
from mgcl_core.support.errors import MachineError


@pytest.mark.slow
def test_a_study_on_a_full_disk_ends_in_one_error_and_goes_on_with_room(
    tiny_corpus, tiny_overrides, small_disk, tmp_path
):
    def study(results):
        return Study(
            tiny_corpus, "demo", seeds=(1,), overrides=tiny_overrides, device="cpu", workers=1, results=results
        )

    whole = study(tmp_path / "results").train()[0].predictions("test")
    for size in (1 << 14, 3 << 16):  # in a record, in weights or a checkpoint
        disk = small_disk(size)
        with pytest.raises(MachineError) as caught:
            study(disk).train()
        text = str(caught.value)
        assert ("disk is full" in text or "may not become so large" in text) and str(disk) in text and "\n" not in text
        assert not [path for path in disk.rglob(".*") if path.is_file()]  # nothing half written
    shutil.copytree(disk, tmp_path / "with room")
    assert study(tmp_path / "with room").train()[0].predictions("test").equals(whole)
