// openai-node follows tasks to their end behind an upstream that does every odd thing that was met in public.
//
// `../run` starts what this needs and says where it listens.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import OpenAI, { NotFoundError } from 'openai';

const { ODD_UPSTREAM, ODD_GATEWAY } = process.env;
const INTERVAL = 50;
const PATIENCE = 60_000;

const inspect = async (path = '') => (await fetch(`${ODD_UPSTREAM}/odd${path}`)).json();
const script = await inspect();

/** Without retries, so that every failure would show. */
const connect = (apiKey) =>
  new OpenAI({
    apiKey,
    baseURL: `${ODD_GATEWAY}/v1`,
    maxRetries: 0,
    defaultHeaders: { 'cf-access-client-id': 'id1.access' },
  });

async function follow(client, id) {
  const deadline = Date.now() + PATIENCE;
  const seen = [];
  while (seen.at(-1)?.status !== 'completed') {
    assert.ok(Date.now() < deadline, `after ${PATIENCE} ms still ${JSON.stringify(seen.at(-1))}`);
    seen.push(await client.videos.retrieve(id));
    await sleep(INTERVAL);
  }
  return seen;
}

describe('openai-node behind an odd upstream', { concurrency: 4 }, () => {
  for (const name of ['first', 'second', 'third']) {
    test(`follows a task to its end and sees all of its news in order: ${name}`, async () => {
      const client = connect(`sk-odd+node+${name}`);
      const { id } = await client.videos.create({ model: 'sora-2', prompt: 'a cat' });
      const seen = await follow(client, id);
      const states = seen.map(({ status, progress }) => ({ status, progress }));
      const news = states.filter((state, at) => state.progress !== states[at - 1]?.progress);
      assert.deepEqual(news, script.shows);
      const steps = states.map(({ progress }) => progress);
      assert.deepEqual(steps, steps.toSorted((one, other) => one - other));
      for (const video of seen) {
        assert.deepEqual([video.id, video.object, video.model, video.seconds], [id, 'video', 'sora-2', '8']);
        assert.ok(Number.isInteger(video.progress) && Number.isInteger(video.created_at));
        assert.equal(video.error ?? null, null);
      }
      assert.equal(seen.at(-1).video_url, 'https://v.example.com/1.mp4');
      const { saw, refused } = await inspect(`/tasks/${id}`);
      assert.deepEqual(saw, script.polls);
      assert.deepEqual(refused, []);
    });
  }

  test('is told what an error page looks like where no state is known', async () => {
    const lost = connect('sk-odd+node+lost').videos.retrieve('task_lost');
    await assert.rejects(lost, (error) => {
      assert.ok(error instanceof NotFoundError);
      assert.equal(error.code, 'upstream_error');
      assert.match(error.message, /says nothing about the task or the key/);
      return true;
    });
  });
});
