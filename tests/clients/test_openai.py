"""The `openai` Python package against a running vllama.

Usage: OLLAMA_HOST=127.0.0.1:PORT python -m unittest discover -s tests/clients
"""

import json
import os
import unittest

import httpx
import openai

MODEL = "smollm2:135m"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def client(kind=openai.OpenAI):
    return kind(base_url=f"http://{os.environ['OLLAMA_HOST']}/v1", api_key="ollama", max_retries=0)


class OpenAiPackage(unittest.TestCase):
    def setUp(self):
        self.client = client()
        self.addCleanup(self.client.close)

    def chat(self, **more):
        return self.client.chat.completions.create(**{"model": MODEL, "messages": QUESTION, "temperature": 0, **more})

    def test_chat_answers(self):
        answer = self.chat()
        self.assertEqual(answer.choices[0].message.content, ANSWER)
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        self.assertEqual((answer.model, answer.object), (MODEL, "chat.completion"))
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)

    def test_chat_takes_a_limit_by_either_name(self):
        for limit in ("max_completion_tokens", "max_tokens"):
            answer = self.chat(**{limit: 3})
            self.assertEqual((answer.usage.completion_tokens, answer.choices[0].finish_reason), (3, "length"), limit)
            self.assertEqual(self.chat(**{limit: 10**9}).choices[0].message.content, ANSWER, limit)
            self.assertEqual(self.chat(**{limit: -1}).choices[0].message.content, ANSWER, limit)

    def test_chat_streams_and_counts_when_asked(self):
        for options in (None, {"include_usage": True}):
            chunks = list(self.chat(stream=True, **({"stream_options": options} if options else {})))
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            self.assertEqual(text, ANSWER)
            self.assertEqual({chunk.model for chunk in chunks}, {MODEL})
            self.assertEqual(len({chunk.id for chunk in chunks}), 1)
            usages = [chunk.usage for chunk in chunks if chunk.usage]
            self.assertEqual(len(usages), 1 if options else 0)

    def test_the_name_is_told_as_it_was_asked(self):
        asked = "SmolLM2:135M"
        self.assertEqual(self.chat(model=asked).model, asked)
        self.assertEqual({chunk.model for chunk in self.chat(model=asked, stream=True)}, {asked})

    def test_a_stream_can_be_left(self):
        with self.chat(stream=True, messages=[{"role": "user", "content": "Write a long story."}]) as stream:
            next(iter(stream))
        self.assertEqual(self.chat().choices[0].message.content, ANSWER)

    def test_several_answers_and_log_probabilities(self):
        answer = self.chat(n=2, temperature=1, seed=1, max_tokens=4, logprobs=True, top_logprobs=2)
        self.assertEqual([choice.index for choice in answer.choices], [0, 1])
        self.assertEqual(len(answer.choices[0].logprobs.content[0].top_logprobs), 2)

    def test_tools_need_a_model_that_can_call_them(self):
        tools = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
        for choice in ("auto", "required"):
            with self.assertRaises(openai.BadRequestError) as caught:
                self.chat(tools=tools, tool_choice=choice)
            self.assertIn("does not support tools", caught.exception.message)
        self.assertEqual(self.chat(tools=tools, tool_choice="none").choices[0].message.content, ANSWER)

    def test_answers_keep_to_a_schema(self):
        form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
        answer = self.chat(messages=[{"role": "user", "content": "Bob is 30 years old."}], response_format=form)
        self.assertEqual(set(json.loads(answer.choices[0].message.content)), {"name", "age"})

    def test_completions_continue_the_prompt(self):
        ask = {"model": MODEL, "prompt": "The capital of France is", "temperature": 0, "max_tokens": 4}
        answer = self.client.completions.create(**ask)
        self.assertTrue(answer.choices[0].text.startswith(" Paris"), answer)
        self.assertEqual((answer.object, answer.model), ("text_completion", MODEL))
        text = "".join(chunk.choices[0].text for chunk in self.client.completions.create(**ask, stream=True))
        self.assertEqual(text, answer.choices[0].text)

    def test_responses_answer_and_stream(self):
        ask = {"model": MODEL.upper(), "input": "What is the capital of France?", "temperature": 0}
        answer = self.client.responses.create(**ask)
        self.assertEqual((answer.output_text, answer.status, answer.model), (ANSWER, "completed", MODEL.upper()))
        self.assertGreater(answer.usage.output_tokens, 0)
        events = list(self.client.responses.create(**ask, stream=True))
        self.assertEqual(events[0].type, "response.created")
        self.assertEqual(events[-1].type, "response.completed")
        self.assertEqual([event.sequence_number for event in events], list(range(len(events))))
        self.assertEqual("".join(event.delta for event in events if event.type == "response.output_text.delta"), ANSWER)
        for event in (events[0], events[-1]):
            self.assertEqual(event.response.model, MODEL.upper())

    def test_responses_take_instructions_items_and_a_schema(self):
        answer = self.client.responses.create(
            model=MODEL,
            instructions="You know people.",
            input=[{"role": "user", "content": [{"type": "input_text", "text": "Bob is 30 years old."}]}],
            text={"format": {"type": "json_schema", "name": "person", "schema": PERSON, "strict": True}},
            reasoning={"effort": "medium"},
            temperature=0,
        )
        self.assertEqual(set(json.loads(answer.output_text)), {"name", "age"})

    def test_responses_are_not_kept(self):
        for ask in (
            lambda: self.client.responses.retrieve("resp_1"),
            lambda: self.client.responses.cancel("resp_1"),
            lambda: self.client.responses.create(model=MODEL, input="x", previous_response_id="resp_1"),
        ):
            with self.assertRaises(openai.NotFoundError) as caught:
                ask()
            self.assertIn("does not keep responses", caught.exception.message)

    def test_models_are_those_of_the_store(self):
        listed = {model.id: model for model in self.client.models.list()}
        self.assertIn(MODEL, listed)
        self.assertEqual(self.client.models.retrieve(MODEL), listed[MODEL])
        self.assertEqual(self.client.models.retrieve("library/smollm2:135m").id, "library/smollm2:135m")
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("nobody/nothing")

    def test_errors_are_the_clients_own(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            self.chat(model="nobody")
        self.assertEqual((caught.exception.type, caught.exception.code), ("not_found_error", None))
        self.assertIn("model 'nobody' not found", caught.exception.message)
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat(messages=[{"role": "user", "content": "word " * 9000}], stream=True)
        self.assertIn("maximum context length is", caught.exception.message)
        with self.assertRaises(openai.BadRequestError):
            self.chat(extra_body={"temperature": "hot"})

    def test_made_models_keep_what_they_were_made_with(self):
        host = f"http://{os.environ['OLLAMA_HOST']}"
        made = {
            "model": "openai-mario",
            "from": MODEL,
            "system": "You are Mario from Super Mario Bros.",
            "parameters": {"num_predict": 5, "temperature": 0},
            "stream": False,
        }
        self.assertEqual(httpx.post(f"{host}/api/create", json=made, timeout=60).status_code, 200)
        try:
            ask = {"model": "openai-mario", "messages": [{"role": "user", "content": "Who are you?"}]}
            answer = self.client.chat.completions.create(**ask)
            self.assertEqual((answer.model, answer.usage.completion_tokens), ("openai-mario", 5))
            plain = self.chat(messages=ask["messages"], max_tokens=5)
            self.assertNotEqual(answer.usage.prompt_tokens, plain.usage.prompt_tokens)
        finally:
            httpx.request("DELETE", f"{host}/api/delete", json={"model": "openai-mario"}, timeout=60)


class AsyncOpenAiPackage(unittest.IsolatedAsyncioTestCase):
    async def test_chat_streams_asynchronously(self):
        async with client(openai.AsyncOpenAI) as asynchronous:
            stream = await asynchronous.chat.completions.create(
                model=MODEL, messages=QUESTION, temperature=0, stream=True
            )
            self.assertEqual("".join([chunk.choices[0].delta.content or "" async for chunk in stream]), ANSWER)


if __name__ == "__main__":
    unittest.main()
