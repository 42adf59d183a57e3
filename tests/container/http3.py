"""Asks over HTTP/3, as tests/container does: first a question, then a stream on the same connection.

usage: http3.py AUTHORITY PORT KEY MODEL
  AUTHORITY   file with the certificate that is trusted
  PORT        UDP port on localhost
Prints one line of JSON: status and headers of /api/version, status of the chat, its text, the moments
its pieces came at and the seconds that the engine wrote for.
"""

import asyncio
import json
import sys
import time

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated


class Client(QuicConnectionProtocol):
    """One question at a time."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.http, self.events = H3Connection(self._quic), asyncio.Queue()

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            self.events.put_nowait(None)
        for part in self.http.handle_event(event):
            self.events.put_nowait(part)

    async def ask(self, method, path, key, body=b""):
        """Status, headers, and the pieces of the body with the moments they came at."""
        stream = self._quic.get_next_available_stream_id()
        headers = {":method": method, ":scheme": "https", ":authority": "localhost", ":path": path, "authorization": f"Bearer {key}"}
        self.http.send_headers(stream, [(name.encode(), value.encode()) for name, value in headers.items()], end_stream=not body)
        if body:
            self.http.send_data(stream, body, end_stream=True)
        self.transmit()
        answer, pieces = {}, []
        while True:
            match await self.events.get():
                case None:
                    raise ConnectionError("the connection has ended")
                case HeadersReceived() as part:
                    answer |= {name.decode(): value.decode() for name, value in part.headers}
                case DataReceived() as part:
                    pieces.append((time.monotonic(), part.data))
                case _:
                    continue
            if part.stream_ended:
                return int(answer.pop(":status")), answer, pieces


async def main(authority, port, key, model):
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name="localhost")
    configuration.load_verify_locations(authority)
    chat = {"model": model, "messages": [{"role": "user", "content": "What is the capital of France?"}], "options": {"temperature": 0}}
    async with asyncio.timeout(120), connect("127.0.0.1", int(port), configuration=configuration, create_protocol=Client) as client:
        status, headers, _ = await client.ask("GET", "/api/version", key)
        chatted, _, pieces = await client.ask("POST", "/api/chat", key, json.dumps(chat).encode())
    lines = [json.loads(line) for line in b"".join(data for _, data in pieces).splitlines()]
    text = "".join(line["message"]["content"] for line in lines)
    moments = [moment - pieces[0][0] for moment, data in pieces if data]
    told = {"status": status, "headers": headers, "chat": chatted, "moments": moments, "text": text}
    print(json.dumps({**told, "written": lines[-1].get("eval_duration", 0) / 1e9}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
