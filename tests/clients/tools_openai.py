"""The `openai` Python package against a running vllama that serves a model which calls tools.

Usage: OLLAMA_HOST=127.0.0.1:PORT TOOLS_MODEL=NAME python -m unittest discover -s tests/clients -p 'tools_*.py'
"""

import json
import os
import unittest

import openai

MODEL = os.environ.get("TOOLS_MODEL", "caller:135m")
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]
WEATHER = {
    "name": "get_weather",
    "description": "Get the weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class Tools(unittest.TestCase):
    def setUp(self):
        self.client = openai.OpenAI(base_url=f"http://{os.environ['OLLAMA_HOST']}/v1", api_key="none", max_retries=0)
        self.addCleanup(self.client.close)

    def chat(self, **more):
        ask = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_completion_tokens": 100}
        return self.client.chat.completions.create(
            **{**ask, "tools": [{"type": "function", "function": WEATHER}], "reasoning_effort": "none", **more}
        )

    def check(self, name, arguments):
        self.assertEqual(name, "get_weather")
        self.assertIsInstance(json.loads(arguments)["city"], str)

    def test_a_call_that_must_be_made_is(self):
        named = {"type": "function", "function": {"name": "get_weather"}}
        for choice, end in (("required", "tool_calls"), (named, "stop")):
            answer = self.chat(tool_choice=choice).choices[0]
            self.assertEqual((answer.finish_reason, answer.message.tool_calls[0].type), (end, "function"))
            call = answer.message.tool_calls[0].function
            self.check(call.name, call.arguments)

    def test_a_call_that_may_be_made_is(self):
        answer = self.chat().choices[0]
        self.assertEqual(answer.finish_reason, "tool_calls")
        call = answer.message.tool_calls[0].function
        self.check(call.name, call.arguments)

    def test_a_call_comes_in_pieces(self):
        name, arguments = "", ""
        for chunk in self.chat(tool_choice="required", stream=True):
            for piece in chunk.choices[0].delta.tool_calls or []:
                name += piece.function.name or ""
                arguments += piece.function.arguments or ""
        self.check(name, arguments)

    def test_a_conversation_goes_on_after_the_result(self):
        message = self.chat(tool_choice="required").choices[0].message
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"}
        answer = self.chat(messages=[*QUESTION, message, result], tool_choice="none")
        self.assertTrue(answer.choices[0].message.content)

    def test_a_response_calls(self):
        answer = self.client.responses.create(
            model=MODEL,
            input=QUESTION,
            tools=[{"type": "function", **WEATHER}],
            tool_choice="required",
            temperature=0,
            max_output_tokens=100,
            reasoning={"effort": "none"},
        )
        call = next(item for item in answer.output if item.type == "function_call")
        self.check(call.name, call.arguments)


if __name__ == "__main__":
    unittest.main()
