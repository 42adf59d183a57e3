"""The `ollama` package for Python, every method, by its client and by its asynchronous client.

Usage: OLLAMA_HOST=127.0.0.1:PORT python -m unittest discover -s tests/clients
"""

import asyncio
import hashlib
import math
import os
import tempfile
import unittest
from datetime import datetime, timedelta, timezone
from typing import Literal

import httpx
import ollama
from pydantic import BaseModel, Field

from server import CAPITAL, CHAT, EMBEDDING, GREEDY, PARIS, wait_until_idle

QUESTION = [{"role": "user", "content": CAPITAL}]
# The smallest picture: one pixel.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000050001"
    "a5f645400000000049454e44ae426082"
)


class City(BaseModel):
    name: Literal["Paris", "Rome"]
    inhabitants: int = Field(ge=0, le=99)


class Country(BaseModel):
    """Nested, so that its schema has definitions."""

    capital: City
    languages: list[Literal["French", "Italian"]] = Field(min_length=1, max_length=2)
    large: bool


class Methods:
    """What both clients must do. `ask` calls a method; `stream` calls one and lists what comes."""

    def refused(self, status, method, *args, **more):
        with self.assertRaises(ollama.ResponseError) as caught:
            self.ask(method, *args, **more)
        self.assertEqual(caught.exception.status_code, status, caught.exception.error)
        return caught.exception.error

    def test_generate(self):
        answer = self.ask("generate", CHAT, CAPITAL, options=GREEDY)
        self.assertEqual((answer.model, answer.response, answer.done), (CHAT, PARIS, True))
        self.assertEqual(answer.done_reason, "stop")
        self.assertEqual(len(answer.context), answer.prompt_eval_count + answer.eval_count)
        self.assertGreaterEqual(answer.total_duration, answer.prompt_eval_duration + answer.eval_duration)
        created = datetime.fromisoformat(answer.created_at.replace("Z", "+00:00")[:26] + "+00:00")
        self.assertLess(datetime.now(timezone.utc) - created, timedelta(minutes=1))

    def test_generate_streams(self):
        pieces = self.stream("generate", CHAT, CAPITAL, options=GREEDY)
        self.assertGreater(len(pieces), 4)
        self.assertEqual("".join(piece.response for piece in pieces), PARIS)
        self.assertEqual([piece.done for piece in pieces], [False] * (len(pieces) - 1) + [True])
        self.assertEqual({piece.context is None for piece in pieces[:-1]}, {True})

    def test_generate_takes_all_its_arguments(self):
        options = ollama.Options(temperature=0, num_predict=4, num_ctx=512, top_k=5, stop=["\n\n"], numa=True)
        answer = self.ask(
            "generate", CHAT, "Hi", system="Be brief.", context=[1, 2, 3], think=False, logprobs=True, top_logprobs=2,
            format="", options=options, keep_alive="10m",
        )
        self.assertEqual((answer.eval_count, answer.done_reason), (4, "length"))
        self.assertEqual([len(entry.top_logprobs) for entry in answer.logprobs], [2, 2, 2, 2])
        self.assertTrue(all(entry.logprob <= 0 for entry in answer.logprobs))

    def test_generate_continues_a_raw_prompt_and_a_context(self):
        raw = self.ask("generate", CHAT, "The capital of France is", raw=True, options={**GREEDY, "num_predict": 3})
        self.assertIn("Paris", raw.response)
        self.assertIsNone(raw.context)
        first = self.ask("generate", CHAT, CAPITAL, options={**GREEDY, "num_predict": 2})
        second = self.ask("generate", CHAT, "And?", context=first.context, options={**GREEDY, "num_predict": 2})
        self.assertGreater(second.prompt_eval_count, len(first.context))

    def test_generate_loads_and_refuses_a_suffix(self):
        loaded = self.ask("generate", CHAT, keep_alive=-1)
        self.assertEqual((loaded.response, loaded.done_reason, loaded.eval_count), ("", "load", None))
        self.assertIn("does not support insert", self.refused(400, "generate", CHAT, "def f(", ")"))

    def test_chat(self):
        answer = self.ask("chat", CHAT, QUESTION, options=GREEDY)
        self.assertEqual((answer.message.role, answer.message.content), ("assistant", PARIS))
        self.assertEqual(answer["message"]["content"], PARIS)
        self.assertIsNone(answer.message.tool_calls)
        # Messages as mappings and as what came before.
        history = [*QUESTION, answer.message, ollama.Message(role="user", content="Thanks.")]
        more = self.ask("chat", CHAT, history, options={"num_predict": 2})
        self.assertGreater(more.prompt_eval_count, answer.prompt_eval_count + answer.eval_count)
        self.assertEqual(self.ask("chat", CHAT).done_reason, "load")

    def test_chat_streams(self):
        pieces = self.stream("chat", CHAT, QUESTION, options=GREEDY)
        self.assertEqual("".join(piece.message.content for piece in pieces), PARIS)
        self.assertEqual({piece.message.role for piece in pieces}, {"assistant"})
        self.assertGreater(pieces[-1].total_duration, 0)
        self.assertIsNone(pieces[0].eval_count)

    def test_chat_tells_log_probabilities(self):
        pieces = self.stream("chat", CHAT, QUESTION, logprobs=True, top_logprobs=1, options={**GREEDY, "num_predict": 5})
        entries = [entry for piece in pieces for entry in piece.logprobs or []]
        self.assertEqual(len(entries), 5)
        self.assertEqual([entry.top_logprobs[0].token for entry in entries], [entry.token for entry in entries])
        self.assertIsNone(self.ask("chat", CHAT, QUESTION, options={"num_predict": 1}).logprobs)

    def test_format_takes_json_and_a_model_of_pydantic(self):
        ask = [{"role": "user", "content": "Tell me about France, as JSON."}]
        answer = self.ask("chat", CHAT, ask, format=Country.model_json_schema(), options={**GREEDY, "num_predict": 99})
        country = Country.model_validate_json(answer.message.content)
        self.assertIn(country.capital.name, ("Paris", "Rome"))
        pieces = self.stream("generate", CHAT, "Name a city.", format=City.model_json_schema(), options=GREEDY)
        City.model_validate_json("".join(piece.response for piece in pieces))
        text = self.ask("generate", CHAT, "Say it as JSON.", format="json", options={**GREEDY, "num_predict": 9}).response
        self.assertTrue(text.lstrip().startswith("{"), text)

    def test_thinking_and_tools_are_refused_where_the_model_has_none(self):
        def weather(city: str) -> str:
            """Tells the weather.

            Args:
              city: where
            """

        self.assertEqual(self.refused(400, "chat", CHAT, QUESTION, think=True), f'"{CHAT}" does not support thinking')
        self.assertIn("invalid think value", self.refused(400, "generate", CHAT, "Hi", think="sideways"))
        self.assertIn("does not support tools", self.refused(400, "chat", CHAT, QUESTION, tools=[weather]))
        with self.assertRaises(ollama.ResponseError) as caught:
            self.stream("chat", CHAT, QUESTION, tools=[weather])
        self.assertEqual(caught.exception.status_code, 400)

    def test_a_picture_for_a_model_without_eyes_is_the_clients_fault(self):
        look = [{"role": "user", "content": "What is this?", "images": [PNG]}]
        for error in (
            self.refused(400, "chat", CHAT, look),
            self.refused(400, "generate", CHAT, "What is this?", images=[ollama.Image(value=PNG)]),
        ):
            self.assertNotIn("Traceback", error)
        with self.assertRaises(ValueError):
            self.ask("generate", CHAT, "What is this?", images=["nowhere.png"])

    def test_embed(self):
        one = self.ask("embed", EMBEDDING, "why is the sky blue?")
        self.assertEqual((one.model, one.prompt_eval_count, len(one.embeddings)), (EMBEDDING, 8, 1))
        self.assertAlmostEqual(math.hypot(*one.embeddings[0]), 1, places=5)
        two = self.ask("embed", EMBEDDING, ["why is the sky blue?", "hello"], truncate=True, dimensions=64, keep_alive=600)
        self.assertEqual([len(vector) for vector in two.embeddings], [64, 64])
        self.assertEqual(len(self.ask("embeddings", EMBEDDING, "why is the sky blue?").embedding), 384)
        self.assertEqual(self.refused(404, "embed", "nobody", "x"), 'model "nobody" not found, try pulling it first')

    def test_list_show_and_ps(self):
        self.ask("generate", CHAT, keep_alive="10m")
        listed = {model.model: model for model in self.ask("list").models}
        self.assertLessEqual({CHAT, f"{EMBEDDING}:latest"}, set(listed))
        model = listed[CHAT]
        self.assertEqual((len(model.digest), model.details.family), (64, "llama"))
        self.assertGreater(model.size, 1_000_000)
        self.assertIsNotNone(model.modified_at.tzinfo)
        shown = self.ask("show", CHAT)
        self.assertEqual(shown.modelinfo["general.architecture"], "llama")
        self.assertEqual(shown.modelinfo["llama.context_length"], 8192)
        self.assertEqual(shown.capabilities, ["completion"])
        self.assertIn("FROM ", shown.modelfile)
        loaded = {model.model: model for model in self.ask("ps").models}[CHAT]
        self.assertEqual((loaded.name, loaded.digest), (CHAT, model.digest))
        left = loaded.expires_at - datetime.now(timezone.utc)
        self.assertTrue(timedelta(minutes=9) < left <= timedelta(minutes=10), left)

    def test_create_copy_and_delete(self):
        made = self.stream(
            "create", self.name("mario"), from_=CHAT, system="You are Mario.", license=["MIT"],
            parameters={"temperature": 0, "num_predict": 3, "stop": ["</s>"]},
            messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "It is me."}],
        )
        self.assertEqual(made[-1].status, "success")
        shown = self.ask("show", self.name("mario"))
        # What the new one does not set it has from its base. Ollama tells them in any order.
        told = sorted(line.split() for line in shown.parameters.splitlines())
        of_base = [["top_p", "0.9"]]
        self.assertEqual(told, [["num_predict", "3"], ["stop", '"</s>"'], ["temperature", "0"], *of_base])
        self.assertEqual(shown.details.parent_model, CHAT)
        self.assertIn("MIT", shown.license)
        self.assertEqual(self.ask("copy", self.name("mario"), self.name("luigi")).status, "success")
        self.assertEqual(self.ask("chat", self.name("luigi"), QUESTION).eval_count, 3)
        for name in ("mario", "luigi"):
            self.assertEqual(self.ask("delete", self.name(name)).status, "success")
        self.assertIn("not found", self.refused(404, "delete", self.name("mario")))
        self.assertIn("not found", self.refused(404, "copy", self.name("mario"), "x"))

    def test_create_takes_files_by_their_digests(self):
        content = f"no GGUF at all, for {self.name('file')}".encode()
        with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
            file.write(content)
            file.flush()
            digest = self.ask("create_blob", file.name)
        self.assertEqual(digest, "sha256:" + hashlib.sha256(content).hexdigest())
        error = self.refused(400, "create", self.name("file"), files={"m.gguf": digest})
        self.assertEqual(error, "supplied file was not in GGUF format")

    def test_pull(self):
        self.assertEqual(self.ask("pull", CHAT).status, "success")
        self.assertEqual([step.status for step in self.stream("pull", CHAT, insecure=True)][-1], "success")
        missing = "pull model manifest: file does not exist"
        self.assertEqual(self.refused(500, "pull", "nobody"), missing)
        with self.assertRaises(ollama.ResponseError) as caught:
            self.stream("pull", "nobody")
        self.assertEqual(caught.exception.error, missing)

    def test_push_is_refused_in_words(self):
        for call in (self.ask, self.stream):
            with self.assertRaises(ollama.ResponseError) as caught:
                call("push", CHAT)
            self.assertIn("push", caught.exception.error)
            self.assertNotEqual(caught.exception.status_code, 404)

    def test_what_belongs_to_the_cloud(self):
        self.assertIn("ollama cloud is disabled", self.refused(403, "chat", "gpt-oss:120b-cloud", QUESTION))
        # Newer than the version that vllama tells.
        questions = {"large": {"type": "noul", "instructions": "Is it large?"}}
        self.refused(404, "systemone", CHAT, "France", questions)

    def test_errors_tell_status_and_reason(self):
        self.assertEqual(self.refused(404, "chat", "nobody", QUESTION), "model 'nobody' not found")
        self.assertEqual(self.refused(404, "generate", "nobody", "x"), "model 'nobody' not found")
        self.assertEqual(self.refused(404, "show", "nobody"), "model 'nobody:latest' not found")
        for more, text in [
            ({"top_logprobs": 21}, "top_logprobs must be between 0 and 20"),
            ({"keep_alive": "300"}, 'time: missing unit in duration "300"'),
        ]:
            self.assertEqual(self.refused(400, "generate", CHAT, "Hi", **more), text)
        raw = self.refused(400, "generate", CHAT, "Hi", raw=True, system="x")
        self.assertEqual(raw, "raw mode does not support template, system, or context")
        self.assertIn("context", self.refused(400, "embed", EMBEDDING, "word " * 9000, truncate=False))
        with self.assertRaises(ValueError):
            self.ask("chat", "", QUESTION)


class WithClient(Methods, unittest.TestCase):
    def setUp(self):
        self.client = ollama.Client()
        self.addCleanup(self.client.close)

    def name(self, model):
        return f"client-{model}"

    def ask(self, method, *args, **more):
        return getattr(self.client, method)(*args, **more)

    def stream(self, method, *args, **more):
        return list(self.ask(method, *args, stream=True, **more))

    def test_a_stream_that_is_left_frees_the_engine(self):
        stream = self.client.generate(CHAT, "Write a long story.", stream=True, options={"num_predict": 2000})
        for piece in stream:
            self.assertFalse(piece.done)
            break
        stream.close()
        wait_until_idle()

    def test_a_client_that_loses_its_patience_frees_the_engine(self):
        with ollama.Client(timeout=0.5) as client, self.assertRaises(httpx.ReadTimeout):
            client.generate(CHAT, "Write a long story.", options={"num_predict": 2000})
        wait_until_idle()

    @unittest.skipIf("OLLAMA_API_KEY" in os.environ, "skipped: with a key it would ask ollama.com")
    def test_the_web_is_not_asked_for_without_a_key(self):
        # The package asks ollama.com itself and never this server.
        for method, asked in (("web_search", "vllm"), ("web_fetch", "https://vllm.ai")):
            with self.assertRaisesRegex(ValueError, "[Aa]uthorization"):
                self.ask(method, asked)

    def test_nobody_there_is_a_connection_error(self):
        with self.assertRaises(ConnectionError):
            ollama.Client("127.0.0.1:1").list()


class WithAsyncClient(Methods, unittest.TestCase):
    def name(self, model):
        return f"async-{model}"

    def ask(self, method, *args, **more):
        async def asked():
            async with ollama.AsyncClient() as client:
                return await getattr(client, method)(*args, **more)

        return asyncio.run(asked())

    def stream(self, method, *args, **more):
        async def asked():
            async with ollama.AsyncClient() as client:
                return [piece async for piece in await getattr(client, method)(*args, stream=True, **more)]

        return asyncio.run(asked())

    def test_several_at_the_same_time(self):
        async def asked():
            async with ollama.AsyncClient() as client:
                chats = [client.chat(CHAT, QUESTION, options=GREEDY) for _ in range(4)]
                return await asyncio.gather(*chats, client.embed(EMBEDDING, "hello"))

        *chats, vectors = asyncio.run(asked())
        self.assertEqual({answer.message.content for answer in chats}, {PARIS})
        self.assertEqual(len(vectors.embeddings), 1)

    def test_a_task_that_is_cancelled_frees_the_engine(self):
        async def waiting(client):
            await client.generate(CHAT, "Write a long story.", options={"num_predict": 2000})

        async def streaming(client, begun):
            async for _ in await client.generate(CHAT, "Write a long story.", stream=True, options={"num_predict": 2000}):
                begun.set()

        async def cancelled():
            async with ollama.AsyncClient() as client:
                begun = asyncio.Event()
                tasks = [asyncio.create_task(waiting(client)), asyncio.create_task(streaming(client, begun))]
                await begun.wait()
                for task in tasks:
                    task.cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
                self.assertEqual([type(end) for end in ended], [asyncio.CancelledError] * 2)
                await asyncio.to_thread(wait_until_idle)

        asyncio.run(cancelled())


if __name__ == "__main__":
    unittest.main()
