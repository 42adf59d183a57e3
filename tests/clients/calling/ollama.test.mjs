// The `ollama` package for JavaScript with a model of the real engine that calls functions and thinks.
//
// Usage: OLLAMA_HOST=127.0.0.1:PORT node --test tests/clients/calling/

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Ollama } from 'ollama'
import { all, host } from '../server.mjs'

const ollama = new Ollama({ host })
const model = 'caller:135m'
const messages = [{ role: 'user', content: 'What is the weather in Paris?' }]
const options = { temperature: 0, num_predict: 80 }
const parameters = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] }
const tools = [{ type: 'function', function: { name: 'get_weather', description: 'Get the weather of a city', parameters } }]

test('a function is called and its result taken', async () => {
  const answer = await ollama.chat({ model, messages, tools, options })
  assert.equal(answer.message.content, '')
  assert.equal(answer.message.tool_calls.length, 1)
  const call = answer.message.tool_calls[0].function
  assert.deepEqual([call.name, call.arguments], ['get_weather', { city: 'Paris' }])
  const result = { role: 'tool', content: '18 degrees', tool_name: call.name }
  const more = await ollama.chat({ model, messages: [...messages, answer.message, result], tools, options })
  assert.ok(more.prompt_eval_count > answer.prompt_eval_count)
})

test('a call comes whole in a stream', async () => {
  const parts = await all(await ollama.chat({ model, messages, tools, options, stream: true }))
  const calls = parts.flatMap((part) => part.message.tool_calls ?? [])
  assert.deepEqual(calls.map((call) => call.function.arguments), [{ city: 'Paris' }])
  assert.equal(parts.at(-1).message.tool_calls, undefined)
})

test('thoughts are apart from the answer', async () => {
  const ask = [{ role: 'user', content: 'What is 4 + 4?' }]
  const { message } = await ollama.chat({ model, messages: ask, think: true, options: { ...options, num_predict: 40 } })
  assert.equal(message.thinking.trim(), 'I add the numbers.')
  assert.doesNotMatch(message.content, /think>/)
})
