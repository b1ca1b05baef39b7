import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")


@app.callback()
def log() -> None:
    """Topics and records of a log."""
