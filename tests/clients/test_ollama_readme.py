"""The calls that the README of the `ollama` package for Python shows, with our models in place of its own.

Usage: OLLAMA_HOST=127.0.0.1:PORT python -m unittest discover -s tests/clients
"""

import asyncio
import unittest

import ollama
from ollama import AsyncClient, ChatResponse, Client, chat

from server import CHAT, EMBEDDING

SKY = [{"role": "user", "content": "Why is the sky blue?"}]
SHORT = {"num_predict": 16}


class Readme(unittest.TestCase):
    def test_usage(self):
        response: ChatResponse = chat(model=CHAT, messages=SKY)
        self.assertTrue(response["message"]["content"])
        self.assertEqual(response["message"]["content"], response.message.content)

    def test_streaming_responses(self):
        stream = chat(model=CHAT, messages=SKY, stream=True)
        self.assertTrue("".join(chunk["message"]["content"] for chunk in stream))

    def test_a_cloud_model_is_refused_before_the_stream_begins(self):
        with self.assertRaises(ollama.ResponseError) as caught:
            for _ in Client().chat("gpt-oss:120b-cloud", messages=SKY, stream=True):
                pass
        self.assertEqual(caught.exception.status_code, 403)

    def test_custom_client(self):
        client = Client(headers={"x-some-header": "some-value"})
        self.assertTrue(client.chat(model=CHAT, messages=SKY, options=SHORT).message.content)

    def test_async_client(self):
        async def answer():
            response = await AsyncClient().chat(model=CHAT, messages=[SKY[0]], options=SHORT)
            parts = await AsyncClient().chat(model=CHAT, messages=[SKY[0]], stream=True, options=SHORT)
            return response["message"]["content"], [part["message"]["content"] async for part in parts]

        whole, parts = asyncio.run(answer())
        self.assertTrue(whole and "".join(parts))

    def test_api(self):
        self.assertTrue(ollama.chat(model=CHAT, messages=SKY, options=SHORT).message.content)
        self.assertTrue(ollama.generate(model=CHAT, prompt="Why is the sky blue?", options=SHORT).response)
        self.assertIn(CHAT, [model.model for model in ollama.list().models])
        self.assertTrue(ollama.show(CHAT).modelinfo)
        self.assertEqual(ollama.create(model="example", from_=CHAT, system="You are Mario.").status, "success")
        self.assertEqual(ollama.copy(CHAT, f"user/{CHAT}").status, "success")
        self.assertIn(f"user/{CHAT}", [model.model for model in ollama.list().models])
        for name in ("example", f"user/{CHAT}"):
            self.assertEqual(ollama.delete(name).status, "success")
        self.assertEqual(ollama.pull(CHAT).status, "success")
        with self.assertRaises(ollama.ResponseError):
            ollama.push(f"user/{CHAT}")
        texts = ["The sky is blue because of rayleigh scattering", "Grass is green because of chlorophyll"]
        self.assertEqual(len(ollama.embed(model=EMBEDDING, input=texts[0]).embeddings), 1)
        self.assertEqual(len(ollama.embed(model=EMBEDDING, input=texts).embeddings), 2)
        self.assertIn(CHAT, [model.model for model in ollama.ps().models])

    def test_errors(self):
        with self.assertRaises(ollama.ResponseError) as caught:
            ollama.chat("does-not-yet-exist")
        self.assertEqual(caught.exception.status_code, 404)
        with self.assertRaises(ollama.ResponseError) as caught:
            ollama.pull("does-not-yet-exist")
        self.assertIn("file does not exist", caught.exception.error)


if __name__ == "__main__":
    unittest.main()
