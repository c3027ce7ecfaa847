"""configs/cluster/slurm.sh, with Slurm's two commands replaced by ones that start both nodes on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import configs

SCRIPT = Path(configs.__file__).parent / "cluster/slurm.sh"
SCONTROL = "#!/bin/sh\nprintf 'node1\\nnode2\\n'\n"
SRUN = '#!/bin/sh\nwhile case $1 in --*) true;; *) false;; esac; do shift; done\nexec "$@"\n'
LOOK = """
import os, ray
ray.init(logging_level="error")
print("nodes", sum(node["Alive"] for node in ray.nodes()), "cpus", ray.cluster_resources()["CPU"])
print("token", oct(os.stat(os.environ["RAY_AUTH_TOKEN_PATH"]).st_mode & 0o777))
"""


def commands(folder: Path) -> Path:
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_slurm_script_starts_a_node_each_and_ends_what_it_started(tmp_path: Path) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_A")},
        "PATH": f"{commands(tmp_path / 'bin')}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SAFEMIRAGE_STORAGE": str(tmp_path),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_CPUS_ON_NODE": "3",
    }
    run = subprocess.run(
        [SCRIPT, "python", "-c", LOOK],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "nodes 2 cpus 6.0" in run.stdout
    assert "token 0o600" in run.stdout
    assert not list(tmp_path.glob("*.token"))
    left = subprocess.run(["pgrep", "-f", f"ray-{os.getpid()}"], capture_output=True, text=True)
    assert left.stdout == ""
