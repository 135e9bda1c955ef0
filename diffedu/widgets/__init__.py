"""Interactive figures: live in a kernel, live in the built book, a picture elsewhere.

`bundle_classic` and `stylesheet` are what a static page needs: one classic script and
one style sheet, which bring every widget in the page to life without a kernel.
"""

from diffedu.widgets import _bundle
from diffedu.widgets._bundle import stylesheet
from diffedu.widgets.bent_potential import BentPotential
from diffedu.widgets.bound_bars import BoundBars
from diffedu.widgets.dissolving_mixture import DissolvingMixture
from diffedu.widgets.langevin_ladder import LangevinLadder
from diffedu.widgets.learned_fields import LearnedFields
from diffedu.widgets.path_refinement import PathRefinement
from diffedu.widgets.reverse_trajectories import ReverseTrajectories
from diffedu.widgets.tweedie_posterior import TweediePosterior

__all__ = [
    "BentPotential",
    "BoundBars",
    "DissolvingMixture",
    "LangevinLadder",
    "LearnedFields",
    "PathRefinement",
    "ReverseTrajectories",
    "TweediePosterior",
    "bundle_classic",
    "stylesheet",
]

WIDGETS = (
    BentPotential,
    BoundBars,
    DissolvingMixture,
    LangevinLadder,
    LearnedFields,
    PathRefinement,
    ReverseTrajectories,
    TweediePosterior,
)


def bundle_classic() -> str:
    """A classic script that hydrates every `<figure class="diffedu-widget">`."""
    return _bundle.bundle_classic(*(widget._name for widget in WIDGETS))
