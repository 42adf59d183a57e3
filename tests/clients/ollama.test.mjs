// The `ollama` package for JavaScript on Node: every method, and the calls that its README shows.
//
// Usage: OLLAMA_HOST=127.0.0.1:PORT node --test tests/clients/

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Ollama } from 'ollama'
import { all, CAPITAL, CHAT, EMBEDDING, GREEDY, host, PARIS, untilIdle } from './server.mjs'

const ollama = new Ollama({ host })
const messages = [{ role: 'user', content: CAPITAL }]
const story = { model: CHAT, prompt: 'Write a long story.', options: { num_predict: 2000 } }

/** Checks that a call is refused with this status and text. */
async function refused(call, status, text) {
  await assert.rejects(call, (error) => {
    assert.equal(error.name, 'ResponseError', error)
    assert.equal(error.status_code, status, error.error)
    assert.match(error.error, text)
    return true
  })
}

test('chat answers', async () => {
  const answer = await ollama.chat({ model: CHAT, messages, options: GREEDY })
  assert.deepEqual(answer.message, { role: 'assistant', content: PARIS })
  assert.deepEqual([answer.model, answer.done, answer.done_reason], [CHAT, true, 'stop'])
  for (const figure of ['total_duration', 'load_duration', 'prompt_eval_count', 'prompt_eval_duration', 'eval_count', 'eval_duration'])
    assert.ok(Number.isInteger(answer[figure]) && answer[figure] > 0, figure)
  assert.ok(Math.abs(Date.now() - new Date(answer.created_at)) < 60_000)
})

test('chat streams', async () => {
  const parts = await all(await ollama.chat({ model: CHAT, messages, stream: true, options: GREEDY }))
  assert.equal(parts.map((part) => part.message.content).join(''), PARIS)
  assert.ok(parts.length > 4 && parts.every((part) => part.message.role === 'assistant'))
  assert.deepEqual(parts.map((part) => part.done), [...Array(parts.length - 1).fill(false), true])
})

test('generate answers', async () => {
  const answer = await ollama.generate({ model: CHAT, prompt: CAPITAL, options: GREEDY })
  assert.equal(answer.response, PARIS)
  assert.equal(answer.context.length, answer.prompt_eval_count + answer.eval_count)
})

test('generate streams', async () => {
  const parts = await all(await ollama.generate({ model: CHAT, prompt: CAPITAL, stream: true, options: GREEDY }))
  assert.equal(parts.map((part) => part.response).join(''), PARIS)
})

test('generate takes all its arguments', async () => {
  const answer = await ollama.generate({
    model: CHAT, prompt: 'Hi', system: 'Be brief.', context: [1, 2, 3], think: false, logprobs: true, top_logprobs: 2,
    keep_alive: '10m', images: [], width: 64, height: 64, steps: 2,
    options: { ...GREEDY, num_predict: 3, num_ctx: 512, numa: false, stop: ['\n\n'] },
  })
  assert.deepEqual([answer.eval_count, answer.done_reason], [3, 'length'])
  assert.deepEqual(answer.logprobs.map((entry) => entry.top_logprobs.length), [2, 2, 2])
  const raw = await ollama.generate({ model: CHAT, prompt: 'The capital of France is', raw: true, options: { ...GREEDY, num_predict: 3 } })
  assert.match(raw.response, /Paris/)
  assert.equal(raw.context, undefined)
})

test('an empty prompt loads', async () => {
  assert.equal((await ollama.generate({ model: CHAT, prompt: '', keep_alive: -1 })).done_reason, 'load')
  assert.equal((await ollama.chat({ model: CHAT, messages: [] })).done_reason, 'load')
})

test('format takes json and a schema', async () => {
  const properties = { city: { enum: ['Paris', 'Rome'] }, large: { type: 'boolean' } }
  const format = { type: 'object', properties, required: ['city', 'large'] }
  const answer = await ollama.chat({ model: CHAT, messages, format, options: GREEDY })
  const city = JSON.parse(answer.message.content)
  assert.deepEqual(Object.keys(city), ['city', 'large'])
  const json = await ollama.generate({ model: CHAT, prompt: 'Say it as JSON.', format: 'json', options: { ...GREEDY, num_predict: 9 } })
  assert.match(json.response, /^\s*\{/)
})

test('embed and embeddings', async () => {
  const input = ['why is the sky blue?', 'hello']
  const answer = await ollama.embed({ model: EMBEDDING, input, truncate: true, dimensions: 64 })
  assert.deepEqual(answer.embeddings.map((vector) => vector.length), [64, 64])
  const one = await ollama.embed({ model: EMBEDDING, input: input[0] })
  assert.ok(Math.abs(Math.hypot(...one.embeddings[0]) - 1) < 1e-5)
  assert.equal((await ollama.embeddings({ model: EMBEDDING, prompt: input[0] })).embedding.length, 384)
})

test('list, show, ps and version', async () => {
  await ollama.generate({ model: CHAT, prompt: '', keep_alive: '10m' })
  const listed = (await ollama.list()).models.find((model) => model.name === CHAT)
  assert.equal(listed.model, CHAT)
  assert.match(listed.digest, /^[0-9a-f]{64}$/)
  assert.ok(new Date(listed.modified_at) <= new Date())
  const shown = await ollama.show({ model: CHAT })
  assert.deepEqual(shown.capabilities, ['completion'])
  assert.equal(shown.model_info['general.architecture'], 'llama')
  const loaded = (await ollama.ps()).models.find((model) => model.name === CHAT)
  const left = new Date(loaded.expires_at) - Date.now()
  assert.ok(left > 540_000 && left <= 600_000, `${left} ms`)
  assert.match((await ollama.version()).version, /^\d+\.\d+\.\d+$/)
})

test('create, copy and delete', async () => {
  const steps = await all(await ollama.create({
    model: 'js-mario', from: CHAT, system: 'You are Mario.', license: ['MIT'], stream: true,
    parameters: { num_predict: 3, temperature: 0 }, messages: [{ role: 'user', content: 'Hi' }],
  }))
  assert.equal(steps.at(-1).status, 'success')
  assert.deepEqual(await ollama.create({ model: 'js-mario', from: 'js-mario', system: 'Be Luigi.' }), { status: 'success' })
  assert.deepEqual(await ollama.copy({ source: 'js-mario', destination: 'user/js-luigi' }), { status: 'success' })
  assert.equal((await ollama.chat({ model: 'user/js-luigi', messages })).eval_count, 3)
  for (const model of ['js-mario', 'user/js-luigi']) assert.deepEqual(await ollama.delete({ model }), { status: 'success' })
  await refused(ollama.delete({ model: 'js-mario' }), 404, /not found/)
  await refused(ollama.copy({ source: 'js-mario', destination: 'x' }), 404, /not found/)
})

test('pull ends with success or throws what is wrong', async () => {
  assert.deepEqual(await ollama.pull({ model: CHAT }), { status: 'success' })
  assert.equal((await all(await ollama.pull({ model: CHAT, stream: true, insecure: true }))).at(-1).status, 'success')
  await refused(ollama.pull({ model: 'nobody' }), 500, /file does not exist/)
  await assert.rejects(async () => all(await ollama.pull({ model: 'nobody', stream: true })), /file does not exist/)
})

test('push is refused in words', async () => {
  await assert.rejects(ollama.push({ model: CHAT }), (error) => /push/.test(error.message) && error.status_code !== 404)
  await assert.rejects(async () => all(await ollama.push({ model: CHAT, stream: true })), /push/)
})

test('errors tell status and reason', async () => {
  await refused(ollama.chat({ model: 'nobody', messages }), 404, /^model 'nobody' not found$/)
  await refused(ollama.chat({ model: 'nobody', messages, stream: true }), 404, /^model 'nobody' not found$/)
  await refused(ollama.show({ model: 'nobody' }), 404, /^model 'nobody:latest' not found$/)
  await refused(ollama.embed({ model: 'nobody', input: 'x' }), 404, /try pulling it first/)
  await refused(ollama.chat({ model: '', messages }), 400, /^model is required$/)
  await refused(ollama.chat({ model: CHAT, messages, think: true }), 400, /does not support thinking/)
  await refused(ollama.generate({ model: CHAT, prompt: 'def f(', suffix: ')' }), 400, /does not support insert/)
  const tools = [{ type: 'function', function: { name: 'f', description: 'd', parameters: { type: 'object', properties: {} } } }]
  await refused(ollama.chat({ model: CHAT, messages, tools }), 400, /does not support tools/)
  await refused(ollama.chat({ model: CHAT, messages, keep_alive: '300' }), 400, /missing unit in duration/)
  await refused(ollama.generate({ model: CHAT, prompt: 'Hi', images: [new Uint8Array([137, 80, 78, 71])] }), 400, /./)
  await refused(ollama.chat({ model: 'gpt-oss:120b-cloud', messages, stream: true }), 403, /cloud is disabled/)
  // Newer than the version that vllama tells.
  await refused(ollama.systemone({ model: CHAT, state: 'x', questions: {} }), 404, /./)
})

test('abort ends every stream of the client and frees the engine', async () => {
  const mine = new Ollama({ host })
  const streams = [await mine.generate({ ...story, stream: true }), await mine.generate({ ...story, stream: true })]
  let begun = 0
  const ended = streams.map(async (stream) => {
    for await (const _ of stream) if (begun++ === 1) mine.abort()
  })
  for (const end of ended) await assert.rejects(end, { name: 'AbortError' })
  await untilIdle()
})

test('a stream that is aborted or left frees the engine', async () => {
  const stream = await ollama.generate({ ...story, stream: true })
  await assert.rejects(async () => { for await (const _ of stream) stream.abort() }, { name: 'AbortError' })
  await untilIdle()
  const signal = AbortSignal.timeout(500)
  const hurried = new Ollama({ host, fetch: (url, options) => fetch(url, { ...options, signal }) })
  await assert.rejects(hurried.generate({ ...story }), { name: 'TimeoutError' })
  await untilIdle()
})

test('the README: a client with headers of its own', async () => {
  const headers = { Authorization: 'Bearer <api key>', 'X-Custom-Header': 'custom-value', 'User-Agent': 'MyApp/1.0' }
  const mine = new Ollama({ host: `${host}/`, headers })
  const sky = [{ role: 'user', content: 'Why is the sky blue?' }]
  const answer = await mine.chat({ model: CHAT, messages: sky, options: { num_predict: 8 } })
  assert.ok(answer.message.content)
  const parts = await all(await mine.chat({ model: CHAT, messages: sky, stream: true, options: { num_predict: 8 } }))
  assert.ok(parts.map((part) => part.message.content).join(''))
})
