"""The command line: `python -m backend VERB`.

Results go to stdout, progress and warnings to stderr. An expected failure is one line on stderr
and exit status 1.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from backend.errors import HardestFirstError
from backend.verbs import jobs, learning, ordering, simulating
from backend.verbs.console import note, service_settings
from backend.verbs.keys import keys

app = typer.Typer(
    name="backend",
    help="Hardest First: the hardest, most diverse images first, in Label Studio.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; the errors that are expected become one line."""
    try:
        app()
    except HardestFirstError as error:
        note(str(error), mark="error: ", style="red")
        sys.exit(1)
    except KeyboardInterrupt:
        note("stopped; what was stored is kept")
        sys.exit(130)


app.command()(ordering.score)
app.command()(ordering.queue)
app.command("auto-label")(ordering.auto_label)
app.command()(learning.train)
app.command()(learning.rounds)
app.command()(learning.promote)
app.command()(learning.rollback)
app.command()(jobs.jobs)
app.command()(jobs.forget)
app.command()(ordering.doctor)
app.command()(jobs.worker)
app.add_typer(keys, name="keys")
app.command()(simulating.simulate)


@app.command()
def serve(
    port: Annotated[int | None, typer.Option(help="Port (PORT).", min=1, max=65535)] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (HOST).")] = None,
) -> None:
    """Run the ML backend that Label Studio connects to."""
    from backend.serving import run_server

    run_server(service_settings(port=port, host=host))


@app.command()
def demo(
    wait: Annotated[bool, typer.Option(help="Stay up until Ctrl-C.")] = True,
    rounds: Annotated[
        int, typer.Option(help="Let a simulated annotator play so many rounds.", min=0)
    ] = 0,
    model: Annotated[
        str | None, typer.Option(help="Your own detector, such as yolo11n.pt.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Your own folder of images.")] = None,
) -> None:
    """Start Label Studio with a filled project and serve its hardest image first."""
    from demo.run import run_demo

    raise typer.Exit(run_demo(wait=wait, rounds=rounds, model=model, images=images))
