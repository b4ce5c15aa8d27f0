"""A search that can be stopped: Optuna proposes the values of each trial and keeps them in a SQLite file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.arguments import PRUNERS
from training.search.space import Parameter, Value, matters
from utils.errors import EnvironmentFault
from utils.keyed_random import keyed_rng

COMPLETE, PRUNED, DIVERGED = "complete", "pruned", "diverged"
_FILE, _NAME = "search.db", "search"
_RANDOM_TRIALS = 8  # before the sampler goes by what it has seen


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        index: counted from 0, over those that came to an end; a trial that is begun again keeps it.
        values: by the names of the parameters.
        outcome: `COMPLETE`, `PRUNED` or `DIVERGED`; empty while it runs.
        score: the best of its evaluations.
    """

    index: int
    values: Mapping[str, Value]
    outcome: str = ""
    score: float | None = None


def import_optuna() -> Any:
    """The package, of which nothing else here depends.

    Raises:
        EnvironmentFault: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise EnvironmentFault("--tune: Optuna is not installed; pip install 'optuna>=5,<6'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Study:
    """The trials of a search folder; one process at a time.

    What is proposed depends on the seed and the trials that ended, not on how often the search was stopped.

    Args:
        folder: where ``search.db`` lies or is made.
        space: what to search over.
        baseline: the values of the first trial.
        pruner: one of `PRUNERS`.
    """

    def __init__(
        self, folder: Path, space: Sequence[Parameter], baseline: Mapping[str, Value], *, pruner: str, seed: int
    ) -> None:
        self._optuna = import_optuna()
        self._space, self._seed = tuple(space), seed
        self._storage = self._optuna.storages.RDBStorage(f"sqlite:///{folder / _FILE}")
        self._study = self._optuna.create_study(
            study_name=_NAME,
            storage=self._storage,
            direction="maximize",
            load_if_exists=True,
            pruner=self._pruner(pruner),
        )
        self._running: Any = None
        if not self._study.trials:
            self._study.enqueue_trial(dict(baseline))
        self._begin_again_what_was_cut_off()

    def ended(self) -> list[Trial]:
        """The trials that came to an end, in their order."""
        return [
            Trial(trial.user_attrs["index"], trial.params, trial.user_attrs["outcome"], trial.user_attrs["score"])
            for trial in self._study.trials
            if trial.state.is_finished() and "outcome" in trial.user_attrs
        ]

    def begin(self) -> Trial:
        """Propose the next trial, or that which was cut off."""
        index = len(self.ended())
        self._study.sampler = self._optuna.samplers.TPESampler(
            n_startup_trials=_RANDOM_TRIALS, seed=int(keyed_rng(self._seed, index).integers(2**32))
        )
        self._running = self._study.ask()
        self._running.set_user_attr("index", index)
        values: dict[str, Value] = {}
        for parameter in self._space:
            if matters(parameter, str(values.get("loss", "darknet"))):
                values[parameter.name] = self._suggest(parameter)
        return Trial(index, values)

    def hopeless(self, evaluation: int, score: float) -> bool:
        """Note the best score after ``evaluation`` evaluations of the running trial; whether to give it up."""
        self._running.report(score, evaluation)
        return bool(self._running.should_prune())

    def end(self, outcome: str, score: float | None) -> None:
        """Note how the running trial ended."""
        states = self._optuna.trial.TrialState
        state = {COMPLETE: states.COMPLETE, PRUNED: states.PRUNED, DIVERGED: states.FAIL}[outcome]
        self._running.set_user_attr("score", score)
        self._running.set_user_attr("outcome", outcome)
        self._study.tell(self._running, score if outcome == COMPLETE else None, state=state)

    def close(self) -> None:
        """Let go of the file."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def _suggest(self, parameter: Parameter) -> Value:
        if parameter.choices:
            return self._running.suggest_categorical(parameter.name, parameter.choices)
        return self._running.suggest_float(parameter.name, parameter.low, parameter.high, log=parameter.log)

    def _begin_again_what_was_cut_off(self) -> None:
        """A killed search leaves its trial running for ever; its values are proposed again."""
        for trial in self._study.get_trials(states=(self._optuna.trial.TrialState.RUNNING,)):
            self._study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)
            if "outcome" not in trial.user_attrs and trial.params:
                self._study.enqueue_trial(trial.params)

    def _pruner(self, name: str) -> Any:
        pruners = self._optuna.pruners
        match name:
            case "median":
                return pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=3)
            case "halving":
                return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
            case "none":
                return pruners.NopPruner()
            case _:
                raise ValueError(f"Study: {name!r} (wanted one of {', '.join(PRUNERS)})")
