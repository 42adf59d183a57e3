"""The `openai` package for Python with a model of the real engine that calls functions.

Usage: OLLAMA_HOST=127.0.0.1:PORT PYTHONPATH=tests/clients python -m unittest FILE
"""

import json
import unittest

import openai

from server import HOST

MODEL = "caller:135m"
ASK = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
    "temperature": 0,
    "max_tokens": 80,
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "Get the weather of a city",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
            },
        }
    ],
}


class Calling(unittest.TestCase):
    def setUp(self):
        self.client = openai.OpenAI(base_url=f"http://{HOST}/v1", api_key="ollama", max_retries=0)
        self.addCleanup(self.client.close)

    def test_a_function_is_called(self):
        for choice in ("auto", "required"):
            answer = self.client.chat.completions.create(**ASK, tool_choice=choice).choices[0]
            call = answer.message.tool_calls[0]
            self.assertEqual((call.type, call.function.name, answer.finish_reason), ("function", "get_weather", "tool_calls"))
            self.assertIn("city", json.loads(call.function.arguments))

    def test_a_call_is_put_together_from_a_stream(self):
        name, arguments = "", ""
        for chunk in self.client.chat.completions.create(**ASK, stream=True):
            for piece in chunk.choices[0].delta.tool_calls or []:
                name += piece.function.name or ""
                arguments += piece.function.arguments or ""
        self.assertEqual((name, json.loads(arguments)), ("get_weather", {"city": "Paris"}))


if __name__ == "__main__":
    unittest.main()
