"""Python imports this as it starts where its folder is on PYTHONPATH: the process runs on uvloop."""

import asyncio

import uvloop

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
