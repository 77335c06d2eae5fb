// A browser's EventSource follows a task through the gateway to its end, and stops; a page of another origin follows one
// with fetch, behind an upstream that does every odd thing that was met in public.
//
// `../run` starts what this needs, and says where Chromium is.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { test } from 'node:test';

import OpenAI from 'openai';
import { chromium } from 'playwright-core';

const { CHROMIUM, GATEWAY_MATCH: GATEWAY, ODD_GATEWAY, ODD_UPSTREAM } = process.env;
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

/** A page of an origin of its own. */
async function site() {
  const server = createServer((_, response) => {
    response.setHeader('content-type', 'text/html').end('<!DOCTYPE html><title>another origin</title>');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { origin: `http://127.0.0.1:${server.address().port}`, close: () => server.close() };
}

/** Runs in the page: submits a task, polls it to its end, and asks for two that are not there. */
async function follow({ base, key }) {
  const headers = { authorization: `Bearer ${key}`, 'cf-access-client-id': 'id1.access' };
  const body = JSON.stringify({ model: 'sora-2', prompt: 'a cat' });
  const json = { ...headers, 'content-type': 'application/json' };
  const { id } = await (await fetch(base, { method: 'POST', headers: json, body })).json();
  const ask = async (task) => {
    const answer = await fetch(`${base}/${task}`, { headers });
    return { code: answer.status, requestId: answer.headers.get('x-request-id'), document: await answer.json() };
  };
  const seen = [];
  const deadline = Date.now() + 60_000;
  while (seen.at(-1)?.document.status !== 'completed') {
    if (Date.now() > deadline) throw new Error(`still ${JSON.stringify(seen.at(-1))}`);
    seen.push(await ask(id));
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return { id, seen, missing: await ask('task_nonesuch'), lost: await ask('task_lost') };
}

test('a page of another origin follows a task with fetch to its end, and can read every answer', async () => {
  const inspect = async (path = '') => (await fetch(`${ODD_UPSTREAM}/odd${path}`)).json();
  const { shows, polls } = await inspect();
  const { origin, close } = await site();
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: ARGUMENTS });
  try {
    const page = await (await browser.newContext()).newPage();
    const complaints = [];
    page.on('pageerror', (error) => complaints.push(String(error)));
    page.on('console', (message) => /CORS/.test(message.text()) && complaints.push(message.text()));
    const answers = [];
    page.on('response', (response) => response.url().startsWith(ODD_GATEWAY) && answers.push(response));
    await page.goto(origin);
    const { id, seen, missing, lost } = await page.evaluate(follow, { base: `${ODD_GATEWAY}/v1/videos`, key: 'sk-odd+page' });

    assert.deepEqual(complaints, []);
    assert.deepEqual(seen.filter(({ code, document }) => code !== 200 || document.id !== id), []);
    const states = seen.map(({ document: { status, progress } }) => ({ status, progress }));
    const news = states.filter((state, at) => state.progress !== states[at - 1]?.progress);
    assert.deepEqual(news, shows);
    for (const { requestId } of [...seen, missing, lost]) assert.ok(requestId, 'x-request-id is exposed');
    assert.deepEqual([missing.code, missing.document.error.code], [404, 'task_not_exist']);
    assert.deepEqual([lost.code, lost.document.error.code], [404, 'upstream_error']);
    const { saw, refused } = await inspect(`/tasks/${id}`);
    assert.deepEqual([saw, refused], [polls, []]);

    // What the browser itself was told, which the page is not shown.
    const told = await Promise.all(answers.map(async (answer) => ({
      method: answer.request().method(), code: answer.status(), headers: await answer.allHeaders(),
    })));
    for (const { method, code, headers } of told) {
      assert.equal(headers['access-control-allow-origin'], origin, `${method} ${code} ${headers['cache-status']}`);
    }
    const kinds = { fetched: /; fwd=(miss|stale); stored/, remembered: /; hit; ttl=\d+$/, stale: /detail=stale_if_error/ };
    for (const [kind, pattern] of Object.entries(kinds)) {
      assert.ok(told.some(({ headers }) => pattern.test(headers['cache-status'])), `none was ${kind}`);
    }
    assert.deepEqual(told.filter(({ code }) => code >= 400).map(({ code }) => code), [404, 404]);
  } finally {
    await browser.close();
    close();
  }
});
