"""The official Python SDK, version 2: it knows both eras, and finds out which one the server speaks.

Arguments: where to connect, what stands before the names of tools and prompts there, and how to agree on a revision:
`auto` or `legacy`. It prints what it saw; what the SDK complains of goes to standard error.
"""

import asyncio
import json
import os
import sys
import warnings
from contextlib import AsyncExitStack

from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp_types import ElicitResult

# Subscriptions of revisions with a handshake are used as long as there are such revisions.
warnings.simplefilter("ignore", MCPDeprecationWarning)
WATCHED = "test://watched-resource"
saw = {"progress": [], "asked": [], "heard": [], "faults": []}


async def answer(context, params):
    saw["asked"].append(params.message)
    return ElicitResult(action="accept", content={"username": "ada", "email": "ada@example.org"})


async def note(now, total, message):
    saw["progress"].append(now)


async def hear(message):
    if isinstance(message, Exception):
        saw["faults"].append(str(message))
    elif message.method != "notifications/progress":
        saw["heard"].append(message.model_dump(by_alias=True, exclude_none=True, include={"method", "params"}))


async def main(client, prefix):
    saw["revision"] = client.protocol_version
    saw["server"] = client.server_info and client.server_info.name
    saw["tools"] = [tool.name for tool in (await client.list_tools()).tools]
    echo = await client.call_tool(f"{prefix}echo", {"message": "héllo"})
    saw["echo"] = {"text": echo.content[0].text, "structured": echo.structured_content}
    await client.call_tool(f"{prefix}test_tool_with_progress", {}, progress_callback=note)
    elicited = await client.call_tool(f"{prefix}test_elicitation", {"message": "who?"})
    saw["elicited"] = elicited.content[0].text
    saw["resource"] = (await client.read_resource("test://static-text")).contents[0].text
    prompt = await client.get_prompt(f"{prefix}test_prompt_with_arguments", {"arg1": "one", "arg2": "two"})
    saw["prompt"] = prompt.messages[0].content.text
    try:
        saw["unknown"] = str(await client.call_tool(f"{prefix}no_such_tool", {}))
    except MCPError as error:
        saw["unknown"] = error.code
    async with AsyncExitStack() as listening:
        if client.protocol_version < "2026":
            await client.subscribe_resource(WATCHED)
        else:
            await listening.enter_async_context(client.listen(prompts_list_changed=True, resource_subscriptions=[WATCHED]))
        await client.call_tool(f"{prefix}test_trigger_resource_change", {})
        await client.call_tool(f"{prefix}test_trigger_prompt_change", {})
        for _ in range(30):
            if not any("prompts" in said["method"] for said in saw["heard"]):
                await asyncio.sleep(0.1)


async def connect(url, prefix, mode):
    headers = {"authorization": f"Bearer {os.environ['MCP_TOKEN']}"}
    async with create_mcp_http_client(headers=headers) as http:
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, mode=mode, elicitation_callback=answer, message_handler=hear) as client:
            await main(client, prefix)


asyncio.run(connect(*sys.argv[1:]))
print(json.dumps(saw))
