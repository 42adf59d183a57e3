"""The `ollama` Python package against a running vllama.

Usage: OLLAMA_HOST=127.0.0.1:PORT python -m unittest discover -s tests/clients
"""

import asyncio
import hashlib
import tempfile
import unittest

import ollama

MODEL = "smollm2:135m"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY = {"temperature": 0}


class OllamaPackage(unittest.TestCase):
    def test_generate_answers(self):
        answer = ollama.generate(MODEL, "What is the capital of France?", options=GREEDY)
        self.assertEqual(answer.response, "The capital of France is Paris.")
        self.assertEqual(answer.done_reason, "stop")
        self.assertGreater(answer.eval_count, 0)
        self.assertGreater(len(answer.context), answer.eval_count)

    def test_generate_streams(self):
        pieces = list(ollama.generate(MODEL, "What is the capital of France?", stream=True, options=GREEDY))
        self.assertGreater(len(pieces), 4)
        self.assertEqual("".join(piece.response for piece in pieces), "The capital of France is Paris.")
        self.assertEqual([piece.done for piece in pieces], [False] * (len(pieces) - 1) + [True])

    def test_chat_answers(self):
        answer = ollama.chat(MODEL, QUESTION, options=GREEDY)
        self.assertEqual(answer.message.role, "assistant")
        self.assertEqual(answer["message"]["content"], "The capital of France is Paris.")

    def test_chat_streams(self):
        pieces = list(ollama.chat(MODEL, QUESTION, stream=True, options=GREEDY))
        self.assertEqual("".join(piece.message.content for piece in pieces), "The capital of France is Paris.")
        self.assertGreater(pieces[-1].total_duration, 0)

    def test_chat_streams_asynchronously(self):
        async def text():
            stream = await ollama.AsyncClient().chat(MODEL, QUESTION, stream=True, options=GREEDY)
            return "".join([piece.message.content async for piece in stream])

        self.assertEqual(asyncio.run(text()), "The capital of France is Paris.")

    def test_format_takes_a_schema(self):
        schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
        answer = ollama.chat(MODEL, [{"role": "user", "content": "Bob is 30."}], format=schema, options=GREEDY)
        self.assertRegex(answer.message.content, r'^\s*\{\s*"age":\s*\d+\s*\}\s*$')

    def test_list_show_and_ps_tell_of_the_model(self):
        listed = ollama.list().models
        self.assertIn(MODEL, [model.model for model in listed])
        self.assertEqual(len(listed[0].digest), 64)
        shown = ollama.show(MODEL)
        self.assertEqual(shown.modelinfo["general.architecture"], "llama")
        self.assertEqual(shown.modelinfo["llama.context_length"], 8192)
        self.assertEqual(shown.capabilities, ["completion"])
        self.assertEqual([model.model for model in ollama.ps().models], [MODEL])

    def test_models_are_made_copied_and_deleted(self):
        made = ollama.create(
            "client-mario", from_=MODEL, system="You are Mario.", parameters={"temperature": 0, "stop": ["</s>"]}, stream=True
        )
        self.assertEqual([step.status for step in made][-1], "success")
        shown = ollama.show("client-mario")
        # What the new one does not set it has from its base.
        self.assertEqual(shown.parameters.split(), ["temperature", "0", "stop", '"</s>"', "top_p", "0.9"])
        self.assertEqual(shown.details.parent_model, MODEL)
        self.assertEqual(ollama.copy("client-mario", "client-luigi").status, "success")
        self.assertEqual(ollama.create("client-luigi", from_="client-luigi", license="MIT").status, "success")
        self.assertTrue(ollama.chat("client-luigi", QUESTION).message.content)
        listed = {model.model for model in ollama.list().models}
        self.assertLessEqual({"client-mario:latest", "client-luigi:latest"}, listed)
        for name in ("client-mario", "client-luigi"):
            self.assertEqual(ollama.delete(name).status, "success")
        with self.assertRaises(ollama.ResponseError) as caught:
            ollama.delete("client-mario")
        self.assertEqual(caught.exception.status_code, 404)

    def test_files_are_uploaded_by_their_digest(self):
        with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
            file.write(b"no GGUF at all")
            file.flush()
            digest = ollama.Client().create_blob(file.name)
        self.assertEqual(digest, "sha256:" + hashlib.sha256(b"no GGUF at all").hexdigest())
        with self.assertRaises(ollama.ResponseError) as caught:
            ollama.create("client-file", files={"m.gguf": digest})
        self.assertEqual(caught.exception.error, "supplied file was not in GGUF format")

    def test_load_by_an_empty_prompt(self):
        self.assertEqual(ollama.generate(MODEL, keep_alive=-1).done_reason, "load")

    def test_errors_are_the_clients_own(self):
        with self.assertRaises(ollama.ResponseError) as caught:
            ollama.chat("nobody", QUESTION)
        self.assertEqual(caught.exception.status_code, 404)
        self.assertEqual(caught.exception.error, "model 'nobody' not found")
        with self.assertRaises(ollama.ResponseError) as caught:
            list(ollama.chat(MODEL, QUESTION, stream=True, tools=[{"type": "function", "function": {"name": "f"}}]))
        self.assertEqual(caught.exception.status_code, 400)


if __name__ == "__main__":
    unittest.main()
