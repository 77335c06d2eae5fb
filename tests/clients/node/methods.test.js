// Every method that openai-node has for a video: create, retrieve, downloadContent, delete; it has no poll.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { after, test } from 'node:test';

import OpenAI, { BadRequestError, NotFoundError } from 'openai';

import { end, gateway, simulator } from './start.js';

after(end);

const connect = (base) => new OpenAI({ apiKey: 'sk-clients', baseURL: `${base}/v1`, maxRetries: 0 }).videos;
const create = (videos, simulate) => videos.create({ model: 'documented', prompt: 'a cat', simulate });

test('a video is created, retrieved and downloaded byte by byte', async () => {
  const upstream = await simulator();
  const videos = connect(await gateway(upstream.url));
  const { id } = await create(videos, { lifetime: '0s' });
  // An answer that the gateway has to ask for again.
  await upstream.faults({ fault: '502', next: 1 });
  const video = await videos.retrieve(id);
  assert.deepEqual([video.id, video.status], [id, 'completed']);
  const bytes = async (from) => Buffer.from(await (await from.downloadContent(id)).arrayBuffer());
  const content = await bytes(videos);
  assert.equal(content.length, 1 << 20);
  assert.ok(content.equals(await bytes(connect(upstream.url))));
  const { creates, faults } = await upstream.counts();
  assert.deepEqual([creates, faults], [1, { 502: 1 }]);
});

test('a download says what upstream says of a video that is not there', async () => {
  const upstream = await simulator();
  const videos = connect(await gateway(upstream.url));
  const { id } = await create(videos, { status: 'IN_PROGRESS' });
  await assert.rejects(videos.downloadContent(id), BadRequestError);
  await assert.rejects(videos.downloadContent('task_nonesuch'), NotFoundError);
});

test('after a delete that upstream does not know, a video is what it is', async () => {
  const upstream = await simulator();
  const videos = connect(await gateway(upstream.url));
  const { id } = await create(videos, { lifetime: '0s' });
  assert.equal((await videos.retrieve(id)).status, 'completed');
  await upstream.force(id, 'FAILURE');
  assert.equal((await videos.retrieve(id)).status, 'completed', 'a remembered end');
  await assert.rejects(videos.delete(id), NotFoundError);
  assert.equal((await videos.retrieve(id)).status, 'failed', 'asked for again');
});

test('after a delete that upstream did, a video is not found', async () => {
  const video = {
    id: 'video_1', object: 'video', model: 'sora-2', status: 'completed', progress: 100, created_at: 1784517678,
    completed_at: 1784517969, expires_at: null, seconds: '4', size: '1280x720', error: null,
  };
  let isThere = true;
  const server = createServer((request, response) => {
    const found = isThere && request.url === `/v1/videos/${video.id}`;
    response.writeHead(found ? 200 : 404, { 'content-type': 'application/json' });
    if (!found) return response.end('{"error":{"message":"no such video","type":"t","param":null,"code":"not_found"}}');
    isThere = request.method !== 'DELETE';
    return response.end(JSON.stringify(isThere ? video : { id: video.id, object: 'video.deleted', deleted: true }));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  try {
    const videos = connect(await gateway(`http://127.0.0.1:${server.address().port}`));
    assert.equal((await videos.retrieve(video.id)).status, 'completed');
    assert.deepEqual(await videos.delete(video.id), { id: video.id, object: 'video.deleted', deleted: true });
    await assert.rejects(videos.retrieve(video.id), NotFoundError);
    await assert.rejects(videos.delete(video.id), NotFoundError);
  } finally {
    server.close();
    server.closeAllConnections();
  }
});
