// The `ollama` package for JavaScript with a model that takes tools and thinks. The fake engine answers what was
// recorded, since the small model can do neither; all between the package and the engine is as ever.
//
// Usage: OLLAMA_HOST=127.0.0.1:PORT VLLAMA_ENGINE_ASKED=FILE node --test tests/clients/recorded/

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { Ollama } from 'ollama'
import { all, host } from '../server.mjs'

const ollama = new Ollama({ host })
const model = 'thinker:1b'
const user = (content) => ({ role: 'user', content })
const getWeather = ({ city, unit }) => `22 degrees ${unit} in ${city}`
const tools = [{
  type: 'function',
  function: {
    name: 'get_weather', description: 'Tells the weather of today.',
    parameters: { type: 'object', required: ['city'], properties: { city: { type: 'string', description: 'where' } } },
  },
}]

/** What the engine was asked last. */
const asked = () => JSON.parse(readFileSync(process.env.VLLAMA_ENGINE_ASKED, 'utf8').trimEnd().split('\n').at(-1)).body

test('a call, its result and the answer', async () => {
  const { message } = await ollama.chat({ model, messages: [user('FAKE:replay weather 64')], tools })
  assert.deepEqual(asked().tools, tools)
  assert.deepEqual([message.role, message.content, message.thinking], ['assistant', '', 'They ask for the weather.'])
  assert.equal(message.tool_calls.length, 1)
  const { name, arguments: given } = message.tool_calls[0].function
  assert.deepEqual([name, given], ['get_weather', { city: 'Paris', unit: 'celsius' }])
  const result = { role: 'tool', tool_name: name, content: getWeather(given) }
  const last = await ollama.chat({ model, messages: [user('How is the weather?'), message, result], tools, think: false })
  assert.equal(last.message.content, 'You said: 22 degrees celsius in Paris')
  const [, call, answered] = asked().messages
  assert.equal(call.tool_calls[0].id, answered.tool_call_id)
})

test('each call comes once and whole in a stream', async () => {
  const parts = await all(await ollama.chat({ model, messages: [user('FAKE:replay lights 33')], tools, stream: true, think: false }))
  const calls = parts.flatMap((part) => part.message.tool_calls ?? []).map((call) => call.function)
  assert.deepEqual(calls.map((call) => [call.name, call.arguments]), [['HassTurnOn', { name: 'lamp' }], ['HassTurnOff', { name: 'fan' }]])
  assert.equal(parts.at(-1).message.tool_calls, undefined)
})

test('thoughts are apart from the answer', async () => {
  const messages = [user('FAKE:replay thoughts 50')]
  for (const think of [true, undefined, 'high']) {
    const { message } = await ollama.chat({ model, messages, think })
    assert.deepEqual([message.thinking, message.content], ['Seventeen times four.', 'It is 68.'])
  }
  const parts = await all(await ollama.generate({ model, prompt: messages[0].content, think: true, stream: true }))
  assert.equal(parts.map((part) => part.thinking ?? '').join(''), 'Seventeen times four.')
  assert.equal(parts.map((part) => part.response).join(''), 'It is 68.')
  const { message } = await ollama.chat({ model, messages: [user('What is the capital of France?')], think: false })
  assert.deepEqual([message.thinking, message.content], [undefined, 'The capital of France is Paris.'])
})
