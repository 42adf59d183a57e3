"""The `ollama` package for Python with a model of the real engine that calls functions and thinks.

Usage: OLLAMA_HOST=127.0.0.1:PORT PYTHONPATH=tests/clients python -m unittest FILE
"""

import asyncio
import unittest

import ollama

MODEL = "caller:135m"
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]
SHORT = {"temperature": 0, "num_predict": 80}


def get_weather(city: str) -> str:
    """Get the weather of a city

    Args:
      city: The city
    """
    return f"18 degrees in {city}"


class Calling(unittest.TestCase):
    def test_a_function_is_called_and_its_result_taken(self):
        answer = ollama.chat(MODEL, QUESTION, tools=[get_weather], options=SHORT)
        self.assertEqual((answer.message.content, answer.done_reason), ("", "stop"))
        [call] = answer.message.tool_calls
        self.assertEqual((call.function.name, call.function.arguments), ("get_weather", {"city": "Paris"}))
        result = {"role": "tool", "content": get_weather(**call.function.arguments), "tool_name": call.function.name}
        more = ollama.chat(MODEL, [*QUESTION, answer.message, result], tools=[get_weather], options=SHORT)
        self.assertGreater(more.prompt_eval_count, answer.prompt_eval_count)

    def test_a_call_comes_whole_in_a_stream(self):
        async def calls():
            async with ollama.AsyncClient() as client:
                stream = await client.chat(MODEL, QUESTION, tools=[get_weather], stream=True, options=SHORT)
                return [call async for piece in stream for call in piece.message.tool_calls or []]

        [call] = asyncio.run(calls())
        self.assertEqual(call.function.arguments, {"city": "Paris"})

    def test_thoughts_are_apart_from_the_answer(self):
        ask = [{"role": "user", "content": "What is 4 + 4?"}]
        answer = ollama.chat(MODEL, ask, think=True, options={"temperature": 0, "num_predict": 40})
        self.assertEqual(answer.message.thinking.strip(), "I add the numbers.")
        self.assertNotIn("think>", answer.message.content)
        answer = ollama.chat(MODEL, ask, think=False, options={"temperature": 0, "num_predict": 40})
        self.assertIsNone(answer.message.thinking)


if __name__ == "__main__":
    unittest.main()
