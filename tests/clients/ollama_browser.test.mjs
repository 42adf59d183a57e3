// The browser's build of the `ollama` package, behind what a browser does before it lets a page read an answer: a
// preflight for what is not simple, and a look at who may read.
//
// Usage: OLLAMA_HOST=127.0.0.1:PORT node --test tests/clients/

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Ollama } from 'ollama/browser'
import { all, CAPITAL, CHAT, EMBEDDING, GREEDY, host, PARIS } from './server.mjs'

const SIMPLE = ['accept', 'accept-language', 'content-language', 'range']

/** A `fetch` as a page of `origin` has it. */
function fetchFrom(origin) {
  const mayRead = (answer) => {
    const allowed = answer.headers.get('access-control-allow-origin')
    if (allowed !== '*' && allowed !== origin) throw new TypeError(`a page of ${origin} may not read this`)
  }
  const words = (answer, name) => (answer.headers.get(name) ?? '').toLowerCase().split(/\s*,\s*/)
  return async (url, options = {}) => {
    const method = options.method ?? 'GET'
    // Browsers send a User-Agent of their own, and do not ask for it.
    const { 'User-Agent': _, ...headers } = options.headers
    const special = Object.keys(headers).map((name) => name.toLowerCase()).filter((name) => !SIMPLE.includes(name))
    if (special.length || !['GET', 'HEAD', 'POST'].includes(method)) {
      const asked = { Origin: origin, 'Access-Control-Request-Method': method, 'Access-Control-Request-Headers': special.sort().join() }
      const preflight = await fetch(url, { method: 'OPTIONS', headers: asked })
      if (!preflight.ok) throw new TypeError(`the preflight got ${preflight.status}`)
      mayRead(preflight)
      assert.ok(words(preflight, 'access-control-allow-methods').includes(method.toLowerCase()), method)
      for (const name of special) assert.ok(words(preflight, 'access-control-allow-headers').includes(name), name)
    }
    const answer = await fetch(url, { ...options, headers: { ...headers, Origin: origin } })
    mayRead(answer)
    return answer
  }
}

test('a page of this machine and an extension of VS Code may ask', async () => {
  for (const origin of ['http://localhost:3000', 'http://127.0.0.1', 'vscode-webview://abc', 'app://obsidian.md', 'tauri://localhost']) {
    const ollama = new Ollama({ host, fetch: fetchFrom(origin) })
    assert.ok((await ollama.list()).models.some((model) => model.name === CHAT), origin)
  }
})

test('a page chats, embeds and deletes', async () => {
  const ollama = new Ollama({ host, fetch: fetchFrom('http://localhost:3000'), headers: { Authorization: 'Bearer x' } })
  const messages = [{ role: 'user', content: CAPITAL }]
  const parts = await all(await ollama.chat({ model: CHAT, messages, stream: true, options: GREEDY }))
  assert.equal(parts.map((part) => part.message.content).join(''), PARIS)
  assert.equal((await ollama.embed({ model: EMBEDDING, input: 'hello' })).embeddings.length, 1)
  assert.deepEqual(await ollama.create({ model: 'js-page', from: CHAT, system: 'x' }), { status: 'success' })
  assert.deepEqual(await ollama.delete({ model: 'js-page' }), { status: 'success' })
  await assert.rejects(ollama.show({ model: 'nobody' }), { name: 'ResponseError', status_code: 404 })
})

test('a page from elsewhere may not even ask', async () => {
  const ollama = new Ollama({ host, fetch: fetchFrom('https://example.com') })
  await assert.rejects(ollama.list(), TypeError)
  await assert.rejects(ollama.generate({ model: CHAT, prompt: 'Hi' }), /preflight got 403/)
})
