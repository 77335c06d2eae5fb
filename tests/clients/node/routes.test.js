// Clients of other task routes: a Midjourney front in a browser's manner, and the AI SDK's provider for ByteDance's Ark.
// Both at ten times their pace, and so is what the gateway remembers.

import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { createByteDance } from '@ai-sdk/bytedance';
import { experimental_generateVideo } from 'ai';

import { end, eventually, gateway, simulator } from './start.js';

const KEY = 'sk-clients';
const FAULTS = ['429', '500', '502', 'reset', 'stall'];
const FAST = { POLLGATE_UPSTREAM__TIMEOUT: '500ms' };

after(end);

/** A chat front with a Midjourney proxy as its server: every tab asks once a second, and forgets a task that fails it once. */
const midjourney = {
  interval: 100,
  async fetch(base, path, data) {
    const headers = { 'content-type': 'application/json', 'mj-api-secret': KEY };
    const init = data ? { method: 'POST', headers, body: JSON.stringify(data) } : { method: 'GET', headers };
    const answer = await fetch(base + path, init);
    const document = await answer.json();
    if (!answer.ok) throw Object.assign(new Error(`response_fail: ${answer.status}`), { document });
    return document;
  },
  async submit(base, simulate) {
    const order = { prompt: 'a cat', base64Array: [], notifyHook: '', state: '', botType: 'MID_JOURNEY', simulate };
    const submitted = await this.fetch(base, '/mj/submit/imagine', order);
    assert.equal(submitted.code, 1);
    return submitted.result;
  },
  /** What one tab shows, answer by answer. */
  async watch(base, id, shown = []) {
    for (;;) {
      const task = await this.fetch(base, `/mj/task/${id}/fetch`);
      assert.equal(task.id, id);
      shown.push(task);
      if (['FAILURE', 'SUCCESS'].includes(task.status)) return shown;
      await sleep(this.interval);
    }
  },
};

describe('a Midjourney front', { concurrency: 8 }, () => {
  const TABS = 5;

  async function count(upstream, base) {
    const id = await midjourney.submit(base, { lifetime: '3s' });
    const before = (await upstream.counts()).native_polls.mj ?? 0;
    const tabs = await Promise.all(Array.from({ length: TABS }, () => midjourney.watch(base, id)));
    for (const shown of tabs) {
      const progress = shown.map((task) => parseInt(task.progress));
      assert.deepEqual(progress, progress.toSorted((one, other) => one - other));
      assert.equal(shown.at(-1).imageUrl, `${upstream.url}/mj/image/${id}`);
    }
    return [tabs.flat().length, (await upstream.counts()).native_polls.mj - before];
  }

  test('costs upstream a third of its polls at most', async () => {
    const upstream = await simulator();
    const [alone, all] = await count(upstream, upstream.url);
    assert.ok(alone === all && all >= TABS * 5, `${all} of ${alone}`);
    const [sent, got] = await count(upstream, await gateway(upstream.url));
    assert.ok(got * 3 <= sent, `${got} of ${sent}`);
  });

  test('without the gateway, a tab forgets its task at one 502', async () => {
    const upstream = await simulator();
    const id = await midjourney.submit(upstream.url, { status: 'IN_PROGRESS' });
    await upstream.faults({ fault: '502', next: 1 });
    await assert.rejects(midjourney.watch(upstream.url, id));
  });

  for (const fault of FAULTS) {
    test(`keeps its tasks though upstream fails for a while: ${fault}`, async () => {
      const upstream = await simulator();
      const base = await gateway(upstream.url, FAST);
      const id = await midjourney.submit(base, { status: 'IN_PROGRESS' });
      const shown = Array.from({ length: TABS }, () => []);
      const ends = Promise.allSettled(shown.map((tab) => midjourney.watch(base, id, tab)));
      await eventually('all know it', () => shown.every((tab) => tab.length > 0));
      await upstream.faults({ fault });
      await eventually('two failures', async () => (await upstream.counts()).faults[fault] >= 2);
      await upstream.force(id, 'SUCCESS');
      await upstream.faults();
      for (const { value, reason } of await ends) assert.equal(value?.at(-1).status, 'SUCCESS', reason);
      assert.equal((await upstream.counts()).creates, 1);
    });
  }
});

/** The AI SDK's own would refuse a URL on this machine. */
async function download({ url }) {
  const answer = await fetch(url);
  assert.ok(answer.ok, `${answer.status}`);
  return { data: new Uint8Array(await answer.arrayBuffer()), mediaType: 'video/mp4' };
}

/** Makes a video, and counts the polls that it takes. */
async function generate(base, simulate) {
  let polls = 0;
  const provider = createByteDance({
    apiKey: KEY,
    baseURL: `${base}/api/v3`,
    fetch(url, init) {
      polls += init?.method === 'POST' ? 0 : 1;
      return fetch(url, init);
    },
  });
  const { video } = await experimental_generateVideo({
    model: provider.video('seedance-1-0-pro-250528'),
    prompt: 'a cat',
    download,
    providerOptions: { bytedance: { pollIntervalMs: 300, pollTimeoutMs: 60_000, simulate } },
  });
  assert.equal(video.uint8Array.length, 1 << 20);
  return polls;
}

/** Videos are fetched by their URL alone, which a vendor signs. */
const SIGNED = { channel: 'doubao-seedance' };

describe("the AI SDK's ByteDance provider", { concurrency: 8 }, () => {
  test('without the gateway, a poll that hits a 502 submits a second job', async () => {
    const upstream = await simulator();
    await upstream.faults({ fault: '502', next: 1 });
    const polls = await generate(upstream.url, { ...SIGNED, lifetime: '1s' });
    const counts = await upstream.counts();
    assert.deepEqual([counts.creates, counts.native_polls.ark], [2, polls]);
  });

  for (const fault of ['502', 'reset', 'reset-mid-body']) {
    test(`submits once though its very first poll fails: ${fault}`, async () => {
      const upstream = await simulator();
      await upstream.faults({ fault, next: 1 });
      const polls = await generate(await gateway(upstream.url), { ...SIGNED, lifetime: '1s' });
      const counts = await upstream.counts();
      assert.deepEqual([counts.creates, counts.faults], [1, { [fault]: 1 }]);
      // The one that failed was sent once more.
      assert.ok(counts.native_polls.ark <= polls + 1, `${counts.native_polls.ark} for ${polls}`);
    });
  }

  for (const fault of FAULTS) {
    test(`submits once though upstream fails for a while: ${fault}`, async () => {
      const upstream = await simulator();
      const base = await gateway(upstream.url, FAST);
      const id = `job-${fault}`;
      const job = Promise.allSettled([generate(base, { ...SIGNED, id, status: 'IN_PROGRESS' })]);
      await eventually('a good answer', async () => (await upstream.counts()).poll_answers[200] > 0);
      await upstream.faults({ fault });
      await eventually('two failures', async () => (await upstream.counts()).faults[fault] >= 2);
      await upstream.force(id, 'SUCCESS');
      await upstream.faults();
      const [{ value, reason }] = await job;
      assert.ok(value >= 2, reason);
      assert.equal((await upstream.counts()).creates, 1);
    });
  }
});
