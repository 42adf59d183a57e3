"""The `anthropic` Python package against a running vllama.

Usage: OLLAMA_HOST=127.0.0.1:PORT python -m unittest discover -s tests/clients
"""

import asyncio
import os
import unittest

import anthropic

MODEL = "smollm2:135m"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."
# The package has no such parameter any more, and the route still has.
GREEDY = {"temperature": 0}
WEATHER = {
    "name": "get_weather",
    "description": "Get the weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]},
}


def client(kind=anthropic.Anthropic):
    return kind(base_url=f"http://{os.environ['OLLAMA_HOST']}", api_key="ollama", max_retries=0)


class AnthropicPackage(unittest.TestCase):
    def setUp(self):
        self.client = client()
        self.addCleanup(self.client.close)

    def ask(self, **more):
        return {"model": MODEL, "max_tokens": 100, "messages": QUESTION, "extra_body": GREEDY, **more}

    def create(self, **more):
        return self.client.messages.create(**self.ask(**more))

    def test_a_message_is_answered(self):
        message = self.create()
        self.assertEqual((message.type, message.role, message.model), ("message", "assistant", MODEL))
        self.assertEqual([block.text for block in message.content], [ANSWER])
        self.assertEqual((message.stop_reason, message.stop_sequence), ("end_turn", None))
        self.assertGreater(message.usage.input_tokens, 10)
        self.assertGreater(message.usage.output_tokens, 5)
        self.assertRegex(message._request_id, "^req_[0-9a-f]{24}$")

    def test_a_message_streams(self):
        with self.client.messages.stream(**self.ask()) as stream:
            pieces = list(stream.text_stream)
            message = stream.get_final_message()
        self.assertGreater(len(pieces), 4)
        self.assertEqual("".join(pieces), ANSWER)
        self.assertEqual((message.content[0].text, message.model), (ANSWER, MODEL))
        self.assertEqual(message.stop_reason, "end_turn")

    def test_raw_events_come_in_their_order(self):
        kinds = [event.type for event in self.create(stream=True)]
        self.assertEqual(kinds[:2], ["message_start", "content_block_start"])
        self.assertEqual(kinds[-3:], ["content_block_stop", "message_delta", "message_stop"])
        self.assertEqual(set(kinds[2:-3]), {"content_block_delta"})

    def test_a_message_streams_asynchronously(self):
        async def text():
            async with client(anthropic.AsyncAnthropic) as asynchronous:
                async with asynchronous.messages.stream(**self.ask()) as stream:
                    return "".join([piece async for piece in stream.text_stream])

        self.assertEqual(asyncio.run(text()), ANSWER)

    def test_a_stream_can_be_left(self):
        with self.client.messages.stream(**self.ask(max_tokens=4000)) as stream:
            self.assertTrue(next(iter(stream.text_stream)))
        self.assertEqual(self.create().content[0].text, ANSWER)

    def test_the_name_is_told_as_it_was_asked(self):
        self.assertEqual(self.create(model="SmolLM2:135M").model, "SmolLM2:135M")
        events = list(self.create(model="SmolLM2:135M", stream=True))
        self.assertEqual(events[0].message.model, "SmolLM2:135M")

    def test_limits_and_stop_sequences_are_told(self):
        self.assertEqual(self.create(max_tokens=3).stop_reason, "max_tokens")
        stopped = self.create(stop_sequences=[" Paris"])
        self.assertEqual((stopped.stop_reason, stopped.stop_sequence), ("stop_sequence", " Paris"))
        self.assertEqual(stopped.content[0].text, "The capital of France is")

    def test_more_tokens_than_the_context_are_as_many_as_there_is_room_for(self):
        with self.client.messages.stream(**self.ask(max_tokens=32000)) as stream:
            self.assertEqual(stream.get_final_text(), ANSWER)

    def test_a_system_prompt_reaches_the_model_wherever_it_stands(self):
        counts = {
            self.client.messages.count_tokens(model=MODEL, messages=messages, **more).input_tokens
            for messages, more in [
                (QUESTION, {"system": "Be brief."}),
                (QUESTION, {"system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]}),
                ([{"role": "system", "content": "Be brief."}, *QUESTION], {}),
            ]
        }
        self.assertEqual(len(counts), 1)
        self.assertNotIn(self.client.messages.count_tokens(model=MODEL, messages=QUESTION).input_tokens, counts)

    def test_counted_tokens_are_those_of_the_message(self):
        counted = self.client.messages.count_tokens(model=MODEL, messages=QUESTION).input_tokens
        usage = self.create(max_tokens=1).usage
        self.assertEqual(counted, usage.input_tokens + (usage.cache_read_input_tokens or 0))

    def test_thinking_of_a_model_that_cannot_is_dropped(self):
        for thinking in (
            {"type": "enabled", "budget_tokens": 1024},
            {"type": "disabled"},
            {"type": "adaptive"},
        ):
            with self.client.messages.stream(**self.ask(max_tokens=2000, thinking=thinking)) as stream:
                self.assertEqual(stream.get_final_text(), ANSWER, thinking)

    def test_tools_to_choose_from_need_a_model_that_can(self):
        with self.assertRaises(anthropic.BadRequestError) as caught:
            self.create(tools=[WEATHER])
        self.assertIn("does not support tools", caught.exception.message)

    def test_what_vllm_does_not_know_is_left_out(self):
        blocks = [
            {"type": "thinking", "thinking": "A greeting.", "signature": "c2ln"},
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}},
            {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
            {"type": "text", "text": "Hello."},
        ]
        messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": blocks}, *QUESTION]
        self.assertEqual(self.create(messages=messages).content[0].text, ANSWER)

    def test_an_answer_keeps_to_a_schema(self):
        schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"], "additionalProperties": False}
        output = {"format": {"type": "json_schema", "schema": schema}}
        message = self.create(messages=[{"role": "user", "content": "Bob is 30."}], output_config=output)
        self.assertRegex(message.content[0].text, r'^\s*\{\s*"age":\s*\d+\s*\}\s*$')

    def test_errors_are_the_packages_own(self):
        with self.assertRaises(anthropic.NotFoundError) as caught:
            self.create(model="nobody")
        self.assertEqual(caught.exception.body["error"], {"type": "not_found_error", "message": "model 'nobody' not found"})
        self.assertRegex(caught.exception.request_id, "^req_[0-9a-f]{24}$")
        with self.assertRaises(anthropic.BadRequestError) as caught:
            self.create(messages=[{"role": "user", "content": "word " * 9000}])
        self.assertRegex(caught.exception.message, r"prompt is too long: 8193 tokens > 8192 maximum")
        with self.assertRaises(anthropic.NotFoundError):
            self.client.messages.batches.list()
        image = {"type": "image", "source": {"type": "url", "url": "http://127.0.0.1/x.png"}}
        with self.assertRaises(anthropic.BadRequestError):
            self.create(messages=[{"role": "user", "content": [image]}])


if __name__ == "__main__":
    unittest.main()
