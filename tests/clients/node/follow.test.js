// Follows simulated video tasks through the gateway with openai-node, in every shape there is.
//
// `../run` starts what this needs and says where it listens.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import OpenAI, { APIError, NotFoundError } from 'openai';

const { SIMULATOR, FAULTY_SIMULATOR, FAULTY_GATEWAY } = process.env;
const GATEWAYS = {
  match: process.env.GATEWAY_MATCH,
  unified: process.env.GATEWAY_UNIFIED,
  openai: process.env.GATEWAY_OPENAI,
  documented: process.env.GATEWAY_DOCUMENTED,
};

const INTERVAL = 100;
const PATIENCE = 60_000;

const WAY = ['queued', 'in_progress'];
const ENDS = { succeeded: 'completed', failed: 'failed' };

// Where upstream's own bytes go through, a failure of these has no error.
const UNTOUCHED = ['match', 'openai'];
const WITHOUT_A_REASON = ['row', 'gemini', 'vertex', 'old-row', 'bare', 'nested'];

const { channels } = await (await fetch(`${SIMULATOR}/simulator`)).json();

const connect = (gateway, options) =>
  new OpenAI({ apiKey: 'sk-clients', baseURL: `${gateway}/v1`, ...options });

/** Asks again and again, up to and with the last answer; within limits. */
async function follow(client, id) {
  const deadline = Date.now() + PATIENCE;
  const seen = [await client.videos.retrieve(id)];
  while (WAY.includes(seen.at(-1).status) && Date.now() < deadline) {
    await sleep(INTERVAL);
    seen.push(await client.videos.retrieve(id));
  }
  return seen;
}

/** The first answer, however often upstream fails before it. */
async function first(client, id) {
  const deadline = Date.now() + PATIENCE;
  while (Date.now() < deadline) {
    try {
      return await client.videos.retrieve(id);
    } catch (error) {
      if (!(error instanceof APIError)) throw error;
      await sleep(INTERVAL);
    }
  }
  throw new Error(`no good answer in ${PATIENCE} ms`);
}

async function truth(simulator, id) {
  return (await (await fetch(`${simulator}/simulator/tasks/${id}`)).json()).truth.state;
}

const isTextOrNothing = (value) => value === undefined || value === null || typeof value === 'string';

function check(seen, id, outcome) {
  const order = [...WAY, ENDS[outcome]];
  const steps = seen.map((video) => order.indexOf(video.status));
  assert.equal(steps.at(-1), order.length - 1);
  assert.ok(!steps.includes(-1), `${seen.map((video) => video.status)}`);
  assert.deepEqual(steps, steps.toSorted());
  for (const video of seen) {
    assert.equal(video.id, id);
    assert.equal(video.object, 'video');
    assert.ok(Number.isInteger(video.progress) && video.progress >= 0 && video.progress <= 100);
    assert.ok(Number.isInteger(video.created_at));
    assert.equal(typeof video.model, 'string');
    assert.ok(isTextOrNothing(video.seconds) && isTextOrNothing(video.size));
    if (video.status !== 'failed') assert.equal(video.error ?? null, null);
  }
}

describe('openai-node', { concurrency: 24 }, () => {
  for (const [name, gateway] of Object.entries(GATEWAYS)) {
    for (const channel of channels) {
      for (const outcome of Object.keys(ENDS)) {
        test(`follows a task to its true end: ${name}, ${channel}, ${outcome}`, async () => {
          const client = connect(gateway);
          const simulate = { lifetime: '1s', outcome };
          const { id } = await client.videos.create({ model: channel, prompt: 'a cat', simulate });
          const seen = await follow(client, id);
          assert.equal(await truth(SIMULATOR, id), outcome);
          check(seen, id, outcome);
          if (outcome === 'failed' && !(UNTOUCHED.includes(name) && WITHOUT_A_REASON.includes(channel))) {
            assert.ok(seen.at(-1).error.message);
          }
        });
      }
    }

    test(`is told that a task is missing: ${name}`, async () => {
      await assert.rejects(connect(gateway).videos.retrieve('task_nonesuch'), (error) => {
        assert.ok(error instanceof NotFoundError);
        assert.equal(error.code, 'task_not_exist');
        assert.match(error.message, /^404 \S/);
        assert.doesNotMatch(error.message, /no body/);
        assert.ok(error.requestID);
        return true;
      });
    });
  }

  for (const channel of channels) {
    for (const outcome of Object.keys(ENDS)) {
      test(`never sees upstream fail after its first answer: ${channel}, ${outcome}`, async () => {
        // A key of its own: a 429 is a pause for all who share one.
        const client = connect(FAULTY_GATEWAY, { maxRetries: 0, apiKey: `sk-${channel}+${outcome}` });
        const simulate = { lifetime: '3s', outcome };
        const { id } = await client.videos.create({ model: channel, prompt: 'a cat', simulate });
        const seen = [await first(client, id), ...(await follow(client, id))];
        assert.equal(await truth(FAULTY_SIMULATOR, id), outcome);
        check(seen, id, outcome);
      });
    }
  }
});
