// An upstream that answers every poll of a task with the next odd thing that was met in public, and ends it well.
//
// A browser's page may read its own answers, not those of what stands before it: a load balancer or a firewall sends no
// CORS headers. `GET /odd` tells the script, `GET /odd/tasks/{id}` which steps of it a task has seen.

import { createServer } from 'node:http';
import { gzipSync } from 'node:zlib';

const HTML = 'text/html; charset=UTF-8';
const JSON_TYPE = 'application/json';

// pollgate tries three times where that can help: only after as many of them is the fault not hidden by a retry.
const TRIES = 3;

const CHALLENGE =
  '<!DOCTYPE html><html lang="en-US"><head><title>Just a moment...</title></head><body>Enable JavaScript and cookies to ' +
  'continue</body></html>';
const BAD_GATEWAY =
  '<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n' +
  '<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n';

const video = (task, members) => ({
  id: task.id, object: 'video', model: task.model, status: 'in_progress', progress: 0, created_at: task.createdAt,
  completed_at: null, expires_at: null, seconds: '8', size: '1280x720', prompt: 'a cat', remixed_from_video_id: null,
  error: null, ...members,
});
const taskError = (code) => JSON.stringify({ code, message: code, data: null });

/** A document that can be read, and the progress by which it is known to have arrived. */
const news = (name, progress, members = {}, { status = 'in_progress', code = 200, headers = {}, encode = Buffer.from } = {}) => ({
  name,
  times: 1,
  shows: { status, progress },
  answer: (task) => ({
    code,
    headers: { 'content-type': JSON_TYPE, ...headers },
    body: encode(JSON.stringify(video(task, { progress, ...members }))),
  }),
});

/** An answer that says nothing of the task: the last known state stands in. */
const fault = (name, code, type, body, { times = 1, headers = {}, fromUpstream = true } = {}) => ({
  name,
  times,
  fromUpstream,
  answer: () => ({ code, headers: { 'content-type': type, ...headers }, body }),
});
const inTheWay = (name, code, type, body, options = {}) => fault(name, code, type, body, { ...options, fromUpstream: false });

const SCRIPT = [
  news('queued', 0, { status: 'queued' }, { status: 'queued' }),
  inTheWay('a load balancer has no target', 502, HTML, BAD_GATEWAY, { times: TRIES }),
  news('queueing', 1, { status: 'queueing' }, { status: 'queued' }),
  inTheWay('a load balancer has no route', 404, 'text/plain; charset=utf-8', '404 page not found\n'),
  news('processing', 10, { status: 'processing' }),
  inTheWay('a challenge of a firewall', 403, HTML, CHALLENGE, { headers: { server: 'cloudflare', 'cf-mitigated': 'challenge' } }),
  news('gzip that nobody asked for', 15, {}, { headers: { 'content-encoding': 'gzip' }, encode: gzipSync }),
  fault('a redirect', 301, HTML, '', { headers: { location: 'https://www.octopusx.example/v1/videos/moved' } }),
  news('progress as a text', 20, { progress: '20%' }),
  fault('a running task is said not to exist', 400, JSON_TYPE, taskError('task_not_exist')),
  news('seconds as a number', 25, { seconds: 8 }),
  fault('the database fails', 500, JSON_TYPE, taskError('get_task_failed')),
  fault('a running task is said not to exist after a failure', 400, JSON_TYPE, taskError('task_not_exist')),
  fault('the channel cannot do it', 501, JSON_TYPE, taskError('not_implemented')),
  news('a fraction of a second', 30, { created_at: 1762780400.25 }),
  fault('no task', 200, JSON_TYPE, '{"request_id":"r-1","note":"neither id nor status"}'),
  news('unknown', 35, { status: 'unknown' }),
  fault('a document that is cut short', 200, JSON_TYPE, '{"id":"task_1","object":"video","sta', { times: TRIES }),
  news('202', 40, {}, { code: 202 }),
  { name: 'the connection is reset', times: TRIES, reset: true },
  news('a byte order mark', 45, {}, { encode: (text) => Buffer.from(`\uFEFF${text}`) }),
  fault('an empty answer', 200, JSON_TYPE, '', { times: TRIES }),
  news('all of it is loose', 99, { progress: '99%', seconds: 8, created_at: 1762780400.25, status: 'RUNNING', error: {} }),
  // The end comes after the longest stretch without news.
  inTheWay('the firewall again', 403, HTML, CHALLENGE, { headers: { server: 'cloudflare', 'cf-mitigated': 'challenge' } }),
  fault('the database fails again', 500, JSON_TYPE, taskError('get_task_failed')),
  news('the end', 100, { status: 'completed', completed_at: 1_786_000_060, video_url: 'https://v.example.com/1.mp4' },
    { status: 'completed' }),
];

/** One step for each poll, the last one for ever. */
const POLLS = SCRIPT.flatMap((step) => Array(step.times).fill(step));

const tasks = new Map();

function cors({ headers }) {
  if (!headers.origin) return {};
  return {
    'access-control-allow-origin': headers.origin,
    'access-control-expose-headers': 'x-request-id',
    vary: 'Origin',
  };
}

function preflight(request) {
  const asked = request.headers;
  const allowed = {
    'access-control-allow-methods': 'GET, POST, DELETE, OPTIONS',
    'access-control-allow-headers': asked['access-control-request-headers'] ?? '',
    'access-control-max-age': '0',
  };
  return { code: 204, headers: allowed, fromUpstream: true };
}

async function create(request) {
  // A form or JSON, whichever the client sends: it gets the same task.
  for await (const _ of request);
  const task = {
    id: `task_odd${tasks.size + 1}`,
    model: 'sora-2',
    createdAt: 1_786_000_000,
    client: request.headers['user-agent'],
    saw: [],
    refused: [],
  };
  tasks.set(task.id, task);
  return json(200, video(task, { status: 'queued' }));
}

const json = (code, document) => ({
  code, headers: { 'content-type': JSON_TYPE }, body: JSON.stringify(document), fromUpstream: true,
});

function poll(request, id) {
  const task = tasks.get(id);
  if (!task) {
    const isLost = id === 'task_lost';
    return isLost
      ? { code: 404, headers: { 'content-type': 'text/plain' }, body: '404 page not found\n' }
      : { code: 400, headers: { 'content-type': JSON_TYPE }, body: taskError('task_not_exist'), fromUpstream: true };
  }
  // A firewall that lets only that client pass which has the token and is the one that submitted.
  const { 'cf-access-client-id': token, 'user-agent': client } = request.headers;
  if (token !== 'id1.access' || client !== task.client) {
    task.refused.push({ token, client });
    return { code: 403, headers: { 'content-type': HTML, server: 'cloudflare' }, body: '<html>Access denied</html>' };
  }
  const step = POLLS[Math.min(task.saw.length, POLLS.length - 1)];
  task.saw.push(step.name);
  if (step.reset) return step;
  return { fromUpstream: Boolean(step.shows) || step.fromUpstream, ...step.answer(task) };
}

async function answer(request) {
  const { method, url } = request;
  const [, inspected] = /^\/odd\/tasks\/([^/]+)$/.exec(url) ?? [];
  const [, polled] = /^\/v1\/videos\/([^/?]+)$/.exec(url) ?? [];
  if (method === 'OPTIONS') return preflight(request);
  if (method === 'POST' && url === '/v1/videos') return create(request);
  if (method === 'GET' && polled) return poll(request, polled);
  if (url === '/odd') {
    return json(200, { shows: SCRIPT.map((step) => step.shows).filter(Boolean), polls: POLLS.map((step) => step.name) });
  }
  if (inspected) return json(200, tasks.get(inspected));
  return json(404, { error: { message: `Invalid URL (${method} ${url})`, type: 'invalid_request_error', param: '', code: '' } });
}

const server = createServer(async (request, response) => {
  const { code, headers, body = '', fromUpstream, reset } = await answer(request);
  if (reset) {
    request.socket.resetAndDestroy();
    return;
  }
  const more = fromUpstream ? { ...cors(request), 'x-request-id': `odd-${Date.now()}` } : {};
  response.writeHead(code, { ...headers, ...more, ...(code === 204 ? {} : { 'content-length': Buffer.byteLength(body) }) });
  response.end(body);
});
server.listen(0, '127.0.0.1', () => console.log(`odd upstream listening on 127.0.0.1:${server.address().port}`));
