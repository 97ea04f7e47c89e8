"""Finished run folders, small, as a job leaves them."""

from omegaconf import OmegaConf

from qbench import records
from tests.train.test_cell import compose_config, run


def finished(run_dir, *choices, base_dir=None):
    """Train a cell and write what the job around it writes."""
    run(run_dir, *choices, base_dir=base_dir)
    (run_dir / ".hydra").mkdir()
    config = OmegaConf.to_container(compose_config(*choices), resolve=True)
    (run_dir / ".hydra" / "config.yaml").write_text(OmegaConf.to_yaml(config))
    records.write_status(run_dir, "done")
    return run_dir
