// Runs pollgate for a test's own use: a simulator whose faults can be switched, a gateway, the demo.

import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';

const { PROGRAM } = process.env;
const children = [];

/** Starts pollgate, and finds in what it says whatever these expressions match. */
export async function start(args, expressions = [/ listening on ([0-9.]+:\d+)/], env = {}) {
  const child = spawn(PROGRAM, args, { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, ...env } });
  children.push(child);
  let said = '';
  child.stdout.setEncoding('utf8');
  for await (const chunk of child.stdout.iterator({ destroyOnReturn: false })) {
    said += chunk;
    const found = expressions.map((expression) => expression.exec(said)?.[1]);
    if (found.every(Boolean)) {
      child.stdout.resume();
      return [child, ...found.map((address) => `http://${address}`)];
    }
  }
  throw new Error(`pollgate ${args.join(' ')} said only: ${said}`);
}

/** Ends all that was started. */
export function end() {
  for (const child of children) child.kill('SIGKILL');
}

/** A gateway before an upstream, with settings of its own. */
export async function gateway(upstream, env) {
  const args = ['serve', '--listen', '127.0.0.1:0', '--admin', 'off', '--upstream', upstream];
  return (await start(args, undefined, env))[1];
}

/** A simulator, and its controls. */
export async function simulator() {
  const [, url] = await start(['simulate', '--listen', '127.0.0.1:0']);
  const ask = async (path = '', method = 'GET', body = undefined) => {
    const headers = { 'content-type': 'application/json' };
    const answer = await fetch(`${url}/simulator${path}`, { method, headers, body: JSON.stringify(body) });
    if (!answer.ok) throw new Error(`${method} ${path}: ${await answer.text()}`);
    return answer.json();
  };
  return {
    url,
    ask,
    counts: async () => (await ask()).counts,
    faults: (...rules) => ask('/faults', 'POST', { rules }),
    force: (task, status) => ask(`/tasks/${task}`, 'POST', { status }),
  };
}

/** Waits for it to become true; within limits. */
export async function eventually(what, holds, patience = 60_000) {
  const deadline = Date.now() + patience;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`never came: ${what}`);
    await sleep(50);
  }
}
