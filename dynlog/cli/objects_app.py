"""``dynlog objects``: objects and folders of a store, whatever store it is."""

from __future__ import annotations

import typer

from dynlog.cli.objects_get import get
from dynlog.cli.objects_looks import gc, head, ls, rm
from dynlog.cli.objects_put import put

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")


@app.callback()
def objects() -> None:
    """Objects and folders (models) in a store.

    `s3://bucket/key` takes `?endpoint=http://host:port&region=...`, and user and password as in
    `s3://user:password@bucket`; without, `AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID` and
    `AWS_SECRET_ACCESS_KEY` say them. `file:///folder/key` is in the folder of objects that lies nearest above;
    `file:///folder//key` begins one.

    - `dynlog objects put /models/llama s3://bucket/llama`

    - `dynlog objects ls s3://bucket/llama`

    - `dynlog objects get s3://bucket/llama /models/llama`

    Exit status: 0 done, 1 failed, 2 wrong usage, URL or option, 130 interrupted, 141 whoever read the output went away.
    """


for command in (ls, head, put, get, rm, gc):
    app.command()(command)
