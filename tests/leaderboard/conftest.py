import pytest

from mixbench.records.record import Record, write_record


@pytest.fixture
def add(tmp_path):
    def write(method="mixup", seed=0, top1=90.0, folder=None, status="done", **changes):
        values = {
            "data": "cifar",
            "net": "net",
            "recipe": "quick",
            "epochs": 16,
            "select": "last",
            "config_hash": f"{method}{changes.get('settings', '')}",
            "recipe_hash": "r" * 16,
            "metrics": {"top1": top1, "nll": 0.5, "ece": 0.04},
        } | changes
        identity = f"{method}-{values['data']}-{values['config_hash'][:8]}-s{seed}"
        place = tmp_path / (folder or identity)
        place.mkdir(parents=True)
        write_record(place, Record(id=identity, method=method, seed=seed, status=status, **values))
        return place

    return write
