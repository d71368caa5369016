"""The folder of a run: what has to be true of it before anything is trained."""

from pathlib import Path

from llm_finetune import state
from llm_finetune.parallel import World

FINAL = "final"


def opened(out_dir: str | Path | None, resume: bool | str | Path, world: World) -> Path | None:
    """The folder of the run, made and cleared of what was left half written; ValueError where it can't be used.

    No process goes on before all have looked, for then the first may write.
    """
    if out_dir is None:
        if resume:
            raise ValueError("resume needs out_dir, the folder of the run that is to go on")
        return None
    folder = Path(out_dir)
    require_free(folder, resume)
    folder.mkdir(parents=True, exist_ok=True)
    world.wait()
    if world.first:
        state.clean(folder)
    world.wait()
    if resume is True and state.newest(folder) is None:
        raise ValueError(f"{folder} has no whole checkpoint to go on from; resume='auto' begins anew where none is")
    return folder


def require_free(folder: str | Path, resume: bool | str | Path) -> None:
    """ValueError for a folder that a new run would write into though something is there."""
    folder = Path(folder)
    if not resume and folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty, and nothing is overwritten; go on with it by resume, or name another")


def require_last(out_dir: Path | None, checkpoint: Path | None) -> None:
    """ValueError unless a checkpoint of this run is its newest: later ones would be taken for what follows it."""
    if out_dir is None or checkpoint is None or checkpoint.parent.resolve() != out_dir.resolve():
        return
    last = state.newest(out_dir)
    if last is not None and last.name != checkpoint.name:
        raise ValueError(f"{checkpoint} is followed by {last.name}; move what is after it away, or resume from that")


def require_unfinished(out_dir: Path | None) -> None:
    """ValueError where the result is there, which is never overwritten, though more is to be trained."""
    if out_dir is not None and (out_dir / FINAL).exists():
        raise ValueError(f"{out_dir / FINAL} is there already; move it away to train on")
