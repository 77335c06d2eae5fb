// A browser's EventSource follows a task through the gateway to its end, and stops.
//
// `../run` starts what this needs, and says where Chromium is.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import OpenAI from 'openai';
import { chromium } from 'playwright-core';

const { CHROMIUM, GATEWAY_MATCH: GATEWAY } = process.env;
const KEY = 'sk-clients';
const ARGUMENTS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
];

test('an EventSource sees every state once, ends with the task and does not come back', async () => {
  const client = new OpenAI({ apiKey: KEY, baseURL: `${GATEWAY}/v1` });
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: ARGUMENTS });
  try {
    const context = await browser.newContext({ extraHTTPHeaders: { authorization: `Bearer ${KEY}` } });
    const page = await context.newPage();
    // Any page of the same origin will do.
    await page.goto(`${GATEWAY}/`);
    const task = await client.videos.create({ model: 'documented', prompt: 'p', simulate: { lifetime: '3s' } });
    const seen = await page.evaluate(
      (path) =>
        new Promise((resolve, reject) => {
          const seen = [];
          const events = new EventSource(path);
          events.addEventListener('status', (event) => seen.push(JSON.parse(event.data).status));
          // The connection ends with the task: the browser comes back once, with the last id, and is told to stop.
          events.onerror = () => events.readyState === EventSource.CLOSED && resolve(seen);
          setTimeout(() => reject(new Error(`still open after ${seen}`)), 30_000);
        }),
      `/v1/videos/${task.id}`,
    );
    const states = seen.filter((status, at) => status !== seen[at - 1]);
    assert.deepEqual(states, ['queued', 'in_progress', 'completed']);
    assert.equal(seen.filter((status) => status === 'completed').length, 1);
  } finally {
    await browser.close();
  }
});
