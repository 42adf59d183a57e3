// The vllama under test: its models, and what it is doing.

import assert from 'node:assert/strict'
import { setTimeout } from 'node:timers/promises'

export const host = `http://${process.env.OLLAMA_HOST}`
export const CHAT = 'smollm2:135m'
export const EMBEDDING = 'all-minilm'

// What the small model answers when it is asked for the likeliest words.
export const CAPITAL = 'What is the capital of France?'
export const PARIS = 'The capital of France is Paris.'
export const GREEDY = { temperature: 0 }

/** All parts of a stream. */
export async function all(stream) {
  const parts = []
  for await (const part of stream) parts.push(part)
  return parts
}

/** Waits until nothing runs, as it must soon after a client has gone. */
export async function untilIdle() {
  const deadline = Date.now() + 5000
  for (;;) {
    const queue = await (await fetch(`${host}/vllama/queue`)).json()
    if (queue.models.every((model) => model.running === 0)) return
    assert.ok(Date.now() < deadline, 'the engine still works for a client that has gone')
    await setTimeout(20)
  }
}
