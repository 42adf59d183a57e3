"""The `ollama` and `openai` Python packages against a running vllama that serves all-minilm.

Usage: OLLAMA_HOST=127.0.0.1:PORT python -m unittest discover -s tests/clients
"""

import asyncio
import math
import unittest

import ollama
import openai

from server import EMBEDDING as MODEL
from server import HOST

SKY = "why is the sky blue?"


def norm(vector):
    return math.sqrt(sum(number * number for number in vector))


class OllamaPackage(unittest.TestCase):
    def test_embed_takes_one_text(self):
        answer = ollama.embed(MODEL, SKY)
        self.assertEqual((answer.model, answer.prompt_eval_count), (MODEL, 8))
        self.assertEqual([len(vector) for vector in answer.embeddings], [384])
        self.assertAlmostEqual(norm(answer.embeddings[0]), 1, places=5)
        self.assertGreater(answer.total_duration, answer.load_duration)

    def test_embed_takes_a_list(self):
        answer = ollama.embed(MODEL, [SKY, "hello"], keep_alive="10m", options={"num_ctx": 64})
        self.assertEqual(len(answer.embeddings), 2)
        self.assertEqual(len(ollama.embed(MODEL, SKY, dimensions=64).embeddings[0]), 64)

    def test_embed_asynchronously(self):
        async def both():
            client = ollama.AsyncClient()
            return await asyncio.gather(client.embed(MODEL, SKY), client.embed(MODEL, "hello"))

        sky, hello = asyncio.run(both())
        self.assertNotEqual(sky.embeddings, hello.embeddings)

    def test_embeddings_is_the_older_way(self):
        self.assertEqual(len(ollama.embeddings(MODEL, SKY).embedding), 384)

    def test_errors_are_the_clients_own(self):
        with self.assertRaises(ollama.ResponseError) as caught:
            ollama.embed("nobody", SKY)
        self.assertEqual(caught.exception.status_code, 404)
        self.assertEqual(caught.exception.error, 'model "nobody" not found, try pulling it first')
        with self.assertRaises(ollama.ResponseError) as caught:
            ollama.embed(MODEL, "word " * 2000, truncate=False)
        self.assertEqual(caught.exception.status_code, 400)

    def test_show_tells_that_it_embeds(self):
        shown = ollama.show(MODEL)
        self.assertEqual(shown.capabilities, ["embedding"])
        self.assertEqual(shown.modelinfo["bert.embedding_length"], 384)


class OpenAiPackage(unittest.TestCase):
    def setUp(self):
        self.client = openai.OpenAI(base_url=f"http://{HOST}/v1", api_key="none", max_retries=0)
        self.addCleanup(self.client.close)

    def test_embeddings_are_those_of_the_native_api(self):
        # The package asks for base64 and decodes it.
        answer = self.client.embeddings.create(model=MODEL, input=[SKY, "hello"])
        self.assertEqual((answer.model, answer.usage.prompt_tokens), (MODEL, 11))
        self.assertEqual([item.index for item in answer.data], [0, 1])
        native = ollama.embed(MODEL, SKY).embeddings[0]
        for one, other in zip(answer.data[0].embedding, native, strict=True):
            self.assertAlmostEqual(one, other, places=5)

    def test_embeddings_as_numbers(self):
        answer = self.client.embeddings.create(model=MODEL, input=SKY, encoding_format="float")
        self.assertEqual(len(answer.data[0].embedding), 384)

    def test_errors_are_the_packages_own(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            self.client.embeddings.create(model="nobody", input=SKY)
        self.assertIn("not found", caught.exception.body["message"])
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.embeddings.create(model=MODEL, input=SKY, dimensions=64)
        self.assertIn("Matryoshka", caught.exception.body["message"])


if __name__ == "__main__":
    unittest.main()
