"""Real clients and keys: where each of them puts its key, and what each makes of a refusal.

Usage: OLLAMA_HOST=127.0.0.1:PORT VLLAMA_KEYS_GIVEN='{"good": KEY, "once": KEY, "other": KEY}' python -m unittest FILE

`good` may ask everything, `once` only once a minute, `other` only another model. The engine is the fake one.
"""

import json
import os
import unittest
from unittest import mock

import anthropic
import ollama
import openai

HOST = os.environ["OLLAMA_HOST"]
KEYS = json.loads(os.environ["VLLAMA_KEYS_GIVEN"])
MODEL = "smollm2:135m"
TURNS = [{"role": "user", "content": "FAKE:count 3"}]
TEXT = "1 2 3"
NO_KEY = "sk-vllama-" + "A" * 43


class OllamaPackage(unittest.TestCase):
    def client(self, key=None, **more):
        with mock.patch.dict(os.environ, {"OLLAMA_API_KEY": key} if key else {}):
            return ollama.Client(host=f"http://{HOST}", **more)

    def test_takes_its_key_from_the_environment(self):
        client = self.client(KEYS["good"])
        self.assertEqual(client.chat(MODEL, TURNS).message.content, TEXT)
        chunks = client.chat(MODEL, TURNS, stream=True)
        self.assertEqual("".join(chunk.message.content for chunk in chunks), TEXT)
        self.assertEqual([model.model for model in client.list().models], [MODEL])

    def test_takes_its_key_from_a_header(self):
        client = self.client(headers={"Authorization": f"Bearer {KEYS['good']}"})
        self.assertEqual(client.generate(MODEL, "FAKE:count 3").response, TEXT)

    def test_is_told_why_it_may_not(self):
        for key, call, status, words in [
            (None, lambda client: client.chat(MODEL, TURNS), 401, "asks for a key"),
            (NO_KEY, lambda client: client.chat(MODEL, TURNS), 401, "not known"),
            (KEYS["good"], lambda client: client.delete(MODEL), 403, "manage is needed"),
            (KEYS["other"], lambda client: client.show(MODEL), 403, "may not use the model"),
        ]:
            with self.subTest(status=status, words=words), self.assertRaises(ollama.ResponseError) as caught:
                call(self.client(key))
            self.assertEqual(caught.exception.status_code, status)
            self.assertIn(words, caught.exception.error)


class OpenAiPackage(unittest.TestCase):
    def client(self, key, **more):
        client = openai.OpenAI(base_url=f"http://{HOST}/v1", api_key=key, max_retries=0, **more)
        self.addCleanup(client.close)
        return client

    def ask(self, key):
        return self.client(key).chat.completions.with_raw_response.create(model=MODEL, messages=TURNS)

    def test_is_answered(self):
        self.assertEqual(self.ask(KEYS["good"]).parse().choices[0].message.content, TEXT)
        self.assertEqual([model.id for model in self.client(KEYS["good"]).models.list()], [MODEL])

    def test_knows_each_refusal_by_its_own_exception(self):
        with self.assertRaises(openai.AuthenticationError) as caught:
            self.ask(NO_KEY)
        self.assertEqual(caught.exception.code, "invalid_api_key")
        with self.assertRaises(openai.PermissionDeniedError):
            self.ask(KEYS["other"])

    def test_reads_its_limit(self):
        answer = self.ask(KEYS["once"])
        self.assertEqual(answer.headers["x-ratelimit-limit-requests"], "1")
        self.assertEqual(answer.headers["x-ratelimit-remaining-requests"], "0")
        with self.assertRaises(openai.RateLimitError) as caught:
            self.ask(KEYS["once"])
        self.assertEqual(caught.exception.code, "rate_limit_exceeded")
        self.assertLessEqual(int(caught.exception.response.headers["retry-after"]), 60)


class AnthropicPackage(unittest.TestCase):
    def client(self, **more):
        client = anthropic.Anthropic(base_url=f"http://{HOST}", max_retries=0, **more)
        self.addCleanup(client.close)
        return client

    def ask(self, **more):
        return self.client(**more).messages.create(model=MODEL, max_tokens=20, messages=TURNS)

    def test_shows_its_key_in_either_way(self):
        self.assertEqual(self.ask(api_key=KEYS["good"]).content[0].text, TEXT)
        self.assertEqual(self.ask(auth_token=KEYS["good"]).content[0].text, TEXT)
        # As agents do that have a key for Anthropic's own servers, too.
        both = {"api_key": "sk-ant-another", "default_headers": {"Authorization": f"Bearer {KEYS['good']}"}}
        self.assertEqual(self.ask(**both).content[0].text, TEXT)

    def test_knows_each_refusal_by_its_own_exception(self):
        with self.assertRaises(anthropic.AuthenticationError) as caught:
            self.ask(api_key=NO_KEY)
        self.assertEqual(caught.exception.body["error"]["type"], "authentication_error")
        with self.assertRaises(anthropic.PermissionDeniedError):
            self.ask(api_key=KEYS["other"])


if __name__ == "__main__":
    unittest.main()
