"""Commands of SLURM that start processes of this machine."""

import os
import stat

from mixbench.launch.slurm import SlurmLauncher

# Stands in for SLURM: every task of an array is started at once, as its batch script.
SBATCH = """#!/bin/sh
cp "$1" "$FAKE/script"
job=$(cat "$FAKE/next" 2>/dev/null || echo 7)
echo $((job + 1)) >"$FAKE/next"
tasks=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
export SLURM_JOB_ID=$job SLURM_PROCID=0
if [ -n "$tasks" ]; then export SLURM_ARRAY_JOB_ID=$job; fi
for task in $(seq 0 "${tasks:-0}"); do
    name=$job${tasks:+_$task}
    SLURM_ARRAY_TASK_ID=$task setsid bash "$1" >"$FAKE/out.$name" 2>&1 &
    echo $! >"$FAKE/job.$name"
done
echo "Submitted batch job $job"
"""
SQUEUE = """#!/bin/sh
for file in "$FAKE"/job.*; do
    pid=$(cat "$file" 2>/dev/null) || continue
    if [ "$(cut -d' ' -f3 /proc/$pid/stat 2>/dev/null || echo Z)" != Z ]; then
        echo "${file##*/job.} RUNNING"
    fi
done
"""


class Quick(SlurmLauncher):
    poll_s, patience_s = 0.2, 2.0


def install(tmp_path, monkeypatch):
    """A folder of SLURM commands that start processes of this machine, on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    refuse = "#!/bin/sh\necho 'sbatch: error: invalid partition specified: x' >&2\nexit 1\n"
    for name, text in {"sbatch": SBATCH, "squeue": SQUEUE, "srun": "", "refuse": refuse}.items():
        path = folder / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(folder))
    return folder
