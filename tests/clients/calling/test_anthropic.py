"""The `anthropic` package for Python with a model of the real engine that calls functions.

Usage: OLLAMA_HOST=127.0.0.1:PORT PYTHONPATH=tests/clients python -m unittest FILE
"""

import unittest

import anthropic

from server import HOST

MODEL = "caller:135m"
QUESTION = {"role": "user", "content": "What is the weather in Paris?"}
WEATHER = {
    "name": "get_weather",
    "description": "Get the weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class Tools(unittest.TestCase):
    def setUp(self):
        self.client = anthropic.Anthropic(
            base_url=f"http://{HOST}", api_key="none", max_retries=0
        )
        self.addCleanup(self.client.close)

    def ask(self, **more):
        ask = {"model": MODEL, "max_tokens": 100, "messages": [QUESTION], "tools": [WEATHER]}
        return {**ask, "thinking": {"type": "disabled"}, "extra_body": {"temperature": 0}, **more}

    def check(self, message):
        call = message.content[-1]
        self.assertEqual((call.type, call.name, message.stop_reason), ("tool_use", "get_weather", "tool_use"))
        self.assertIsInstance(call.input["city"], str)
        return call

    def test_a_call_that_must_be_made_is(self):
        for choice in ({"type": "any"}, {"type": "tool", "name": "get_weather"}):
            called = self.check(self.client.messages.create(**self.ask(tool_choice=choice)))
            with self.client.messages.stream(**self.ask(tool_choice=choice)) as stream:
                streamed = self.check(stream.get_final_message())
            self.assertEqual(streamed.input, called.input)

    def test_a_call_is_made_by_choice_and_goes_on_with_its_result(self):
        with self.client.messages.stream(**self.ask()) as stream:
            message = stream.get_final_message()
        call = self.check(message)
        result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "18 degrees"}]}
        messages = [QUESTION, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
        answer = self.client.messages.create(**self.ask(messages=messages))
        self.assertGreater(answer.usage.output_tokens, 0)

    def test_tokens_of_tools_are_counted(self):
        count = self.client.messages.count_tokens
        with_tools = count(model=MODEL, messages=[QUESTION], tools=[WEATHER]).input_tokens
        self.assertGreater(with_tools, count(model=MODEL, messages=[QUESTION]).input_tokens)


if __name__ == "__main__":
    unittest.main()
