"""The `ollama` package for Python with a model that takes tools and thinks. The fake engine answers what was recorded,
since the small model can do neither; all between the package and the engine is as ever.

Usage: OLLAMA_HOST=127.0.0.1:PORT VLLAMA_ENGINE_ASKED=FILE PYTHONPATH=tests/clients python -m unittest FILE
"""

import asyncio
import json
import os
import unittest
from pathlib import Path

import ollama

MODEL = "thinker:1b"
THOUGHTS = [{"role": "user", "content": "FAKE:replay thoughts 50"}]


def get_weather(city: str, unit: str = "celsius") -> str:
    """Tells the weather of today.

    Args:
      city: The city to look at
      unit: celsius or fahrenheit

    Returns:
      str: the temperature
    """
    return f"22 degrees {unit} in {city}"


SWITCHES = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Switches a thing.",
            "parameters": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
        },
    }
    for name in ("HassTurnOn", "HassTurnOff")
]


def asked():
    """What the engine was asked last."""
    return json.loads(Path(os.environ["VLLAMA_ENGINE_ASKED"]).read_text().splitlines()[-1])["body"]


class Talents:
    """What both clients must do. `ask` calls a method; `stream` calls one and lists what comes."""

    def conversation(self, first):
        """Lets the functions run that `first` calls, and asks again with their results."""
        message = first.message if isinstance(first, ollama.ChatResponse) else first
        messages = [{"role": "user", "content": "How is the weather in Paris?"}, message]
        for call in message.tool_calls:
            result = {"get_weather": get_weather}[call.function.name](**call.function.arguments)
            messages.append({"role": "tool", "tool_name": call.function.name, "content": result})
        return self.ask("chat", MODEL, messages, tools=[get_weather], think=False)

    def test_a_function_becomes_a_tool_and_its_result_an_answer(self):
        ask = [{"role": "user", "content": "FAKE:replay weather 64"}]
        answer = self.ask("chat", MODEL, ask, tools=[get_weather])
        tool = asked()["tools"][0]["function"]
        self.assertEqual((tool["name"], tool["description"]), ("get_weather", "Tells the weather of today."))
        self.assertEqual(tool["parameters"]["required"], ["city", "unit"])
        self.assertEqual(
            tool["parameters"]["properties"]["city"], {"type": "string", "description": "The city to look at"}
        )
        self.assertEqual(answer.message.content, "")
        self.assertEqual(answer.message.thinking, "They ask for the weather.")
        self.assertEqual(answer.done_reason, "stop")
        [call] = answer.message.tool_calls
        self.assertEqual(call.function.arguments, {"city": "Paris", "unit": "celsius"})
        last = self.conversation(answer)
        self.assertEqual(last.message.content, "You said: 22 degrees celsius in Paris")
        _, call, result = asked()["messages"]
        self.assertEqual(json.loads(call["tool_calls"][0]["function"]["arguments"]), {"city": "Paris", "unit": "celsius"})
        self.assertEqual(call["tool_calls"][0]["id"], result["tool_call_id"])

    def test_each_call_comes_once_and_whole_in_a_stream(self):
        ask = [{"role": "user", "content": "FAKE:replay lights 33"}]
        pieces = self.stream("chat", MODEL, ask, tools=SWITCHES, think=False)
        calls = [call.function for piece in pieces for call in piece.message.tool_calls or []]
        self.assertEqual(
            [(call.name, call.arguments) for call in calls],
            [("HassTurnOn", {"name": "lamp"}), ("HassTurnOff", {"name": "fan"})],
        )
        self.assertEqual((pieces[-1].done, pieces[-1].message.tool_calls), (True, None))
        self.assertEqual({piece.message.content for piece in pieces}, {""})

    def test_thoughts_are_apart_from_the_answer(self):
        for think in (True, None, "high"):
            answer = self.ask("chat", MODEL, THOUGHTS, think=think)
            self.assertEqual((answer.message.thinking, answer.message.content), ("Seventeen times four.", "It is 68."))
            self.assertIs(asked()["chat_template_kwargs"]["enable_thinking"], True)
        pieces = self.stream("chat", MODEL, THOUGHTS, think=True)
        kinds = ["t" if piece.message.thinking else "c" for piece in pieces if piece.message.thinking or piece.message.content]
        self.assertEqual(kinds, ["t", "t", "c", "c"])
        self.assertEqual("".join(piece.message.thinking or "" for piece in pieces), "Seventeen times four.")

    def test_thinking_is_switched_off(self):
        ask = [{"role": "user", "content": "What is the capital of France?"}]
        answer = self.ask("chat", MODEL, ask, think=False)
        self.assertEqual((answer.message.thinking, answer.message.content), (None, "The capital of France is Paris."))
        self.assertIs(asked()["chat_template_kwargs"]["enable_thinking"], False)
        with self.assertRaises(ollama.ResponseError) as caught:
            self.ask("chat", MODEL, ask, think="sideways")
        self.assertEqual(caught.exception.status_code, 400)

    def test_generate_thinks_too(self):
        answer = self.ask("generate", MODEL, THOUGHTS[0]["content"], think=True)
        self.assertEqual((answer.thinking, answer.response), ("Seventeen times four.", "It is 68."))

    def test_show_tells_what_it_can_do(self):
        self.assertEqual(set(self.ask("show", MODEL).capabilities), {"completion", "vision", "tools", "thinking"})


class WithClient(Talents, unittest.TestCase):
    def ask(self, method, *args, **more):
        return getattr(ollama, method)(*args, **more)

    def stream(self, method, *args, **more):
        return list(self.ask(method, *args, stream=True, **more))


class WithAsyncClient(Talents, unittest.TestCase):
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


if __name__ == "__main__":
    unittest.main()
