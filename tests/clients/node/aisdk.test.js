// The AI SDK's own polling: it makes and polls a job in one go, and makes another one if a poll fails.

import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { createXai } from '@ai-sdk/xai';
import { experimental_generateVideo } from 'ai';
import OpenAI from 'openai';

import { end, eventually, gateway, simulator } from './start.js';

const KEY = 'sk-clients';
const INTERVAL = 50;
const PATIENCE = 120_000;

after(end);

/** xAI's model, unchanged but for its base URL, and for the path to submit on, which OctopusX does not have. */
function xai(base, simulate) {
  const provider = createXai({
    apiKey: KEY,
    baseURL: `${base}/v1`,
    async fetch(url, init) {
      if (init.method !== 'POST') return fetch(url, init);
      const body = JSON.stringify({ ...JSON.parse(init.body), simulate });
      const answer = await fetch(`${base}/v1/videos`, { ...init, body });
      return Response.json({ request_id: (await answer.json()).id });
    },
  });
  return provider.video('grok-imagine-video');
}

/** A model of one's own, as the AI SDK wants them, on top of openai-node. */
function own(base, simulate) {
  return {
    specificationVersion: 'v3',
    provider: 'octopusx',
    modelId: 'documented',
    maxVideosPerCall: 1,
    async doGenerate({ prompt }) {
      const { videos } = new OpenAI({ apiKey: KEY, baseURL: `${base}/v1`, maxRetries: 0 });
      let video = await videos.create({ model: this.modelId, prompt, simulate });
      while (video.status === 'queued' || video.status === 'in_progress') {
        await sleep(INTERVAL);
        video = await videos.retrieve(video.id);
      }
      assert.equal(video.status, 'completed');
      const data = new Uint8Array(await (await videos.downloadContent(video.id)).arrayBuffer());
      const response = { timestamp: new Date(), modelId: this.modelId, headers: {} };
      return { videos: [{ type: 'binary', data, mediaType: 'video/mp4' }], warnings: [], response };
    },
  };
}

const generate = (model) =>
  experimental_generateVideo({
    model,
    prompt: 'a cat',
    providerOptions: { xai: { pollIntervalMs: INTERVAL, pollTimeoutMs: PATIENCE } },
  });

const failed = (error) => error.name === 'XAI_VIDEO_GENERATION_FAILED';

describe('the AI SDK', { concurrency: 4 }, () => {
  test('without the gateway, a poll that hits a 502 submits a second job', async () => {
    const upstream = await simulator();
    await upstream.faults({ fault: '502', next: 1 });
    await assert.rejects(generate(xai(upstream.url, { outcome: 'failed', lifetime: '0s' })));
    assert.equal((await upstream.counts()).creates, 2);
  });

  for (const fault of ['502', '503', '504', 'html', 'truncated', 'reset', 'reset-mid-body']) {
    test(`submits once though its very first poll fails: ${fault}`, async () => {
      const upstream = await simulator();
      await upstream.faults({ fault, next: 1 });
      const base = await gateway(upstream.url);
      await assert.rejects(generate(xai(base, { outcome: 'failed', lifetime: '0s' })), failed);
      const counts = await upstream.counts();
      assert.deepEqual([counts.creates, counts.faults], [1, { [fault]: 1 }]);
    });
  }

  const models = { xai: [xai, 'FAILURE'], own: [own, 'SUCCESS'] };
  for (const [name, [model, state]] of Object.entries(models)) {
    for (const fault of ['429', '429-empty', '500', '502', 'html', 'truncated', 'reset', 'stall']) {
      test(`submits once though upstream fails for a while: ${name}, ${fault}`, async () => {
        const upstream = await simulator();
        const base = await gateway(upstream.url, { POLLGATE_UPSTREAM__TIMEOUT: '1s' });
        const id = `job-${fault}`;
        const job = Promise.allSettled([generate(model(base, { id, status: 'IN_PROGRESS' }))]);
        await eventually('a good answer', async () => (await upstream.counts()).poll_answers[200] > 0);
        await upstream.faults({ fault });
        await eventually('two failures', async () => (await upstream.counts()).faults[fault] >= 2);
        await upstream.force(id, state);
        await upstream.faults();
        const [{ value, reason }] = await job;
        if (state === 'FAILURE') assert.ok(failed(reason), reason);
        else assert.equal(value?.video.uint8Array.length, 1 << 20, reason);
        assert.equal((await upstream.counts()).creates, 1);
      });
    }
  }
});
