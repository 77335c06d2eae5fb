// The admin listener's page in a browser: live numbers, the look-up, small screens, both colour schemes, no JavaScript.
//
// `../run` says where Chromium and pollgate are. Pictures are left in target/page/ for people to look at.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { chromium } from 'playwright-core';

import { end, eventually, simulator, start } from './start.js';

const { CHROMIUM } = process.env;
const PICTURES = process.env.PICTURES ?? fileURLToPath(new URL('../../../target/page/', import.meta.url));
const ARGUMENTS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
];
const PHONE = { width: 360, height: 740 };
const DESKTOP = { width: 1280, height: 900 };

let browser;

before(async () => {
  mkdirSync(PICTURES, { recursive: true });
  browser = await chromium.launch({ executablePath: CHROMIUM, args: ARGUMENTS });
});
after(async () => {
  await browser?.close();
  end();
});

const serve = (upstream, admin = '127.0.0.1:0') =>
  start(
    ['serve', '--listen', '127.0.0.1:0', '--admin', admin, '--upstream', upstream],
    [/ listening on ([0-9.]+:\d+)/, /admin listening on ([0-9.]+:\d+)/],
  );

const demo = () =>
  start(['demo', '--tasks', '12', '--pollers', '10', '--seconds', '100'], [/admin\s+http:\/\/([0-9.]+:\d+)/]);

// A page whose every complaint is an error.
async function open(address, options = {}) {
  const context = await browser.newContext({ viewport: DESKTOP, ...options });
  const page = await context.newPage();
  const complaints = [];
  page.on('console', (message) => ['error', 'warning'].includes(message.type()) && complaints.push(message.text()));
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('request', (request) => {
    const url = request.url();
    if (!url.startsWith(address) && !url.startsWith('data:')) complaints.push(`asked for ${url}`);
  });
  await page.goto(address);
  return { page, complaints, close: () => context.close() };
}

const cell = (page, name) => page.locator(`[data-cell="${name}"]`).first().textContent();
const number = (text) => Number(text.replaceAll(',', ''));
const word = (page, expected) => page.locator('#stream-word', { hasText: expected }).waitFor({ timeout: 20_000 });

// Nothing reaches beyond the right edge, so that nobody has to scroll sideways.
async function fits(page) {
  const wide = await page.evaluate(() =>
    [...document.querySelectorAll('body *')]
      .filter((element) => element.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
      .map((element) => `${element.tagName}.${element.className} ${element.textContent.slice(0, 40)}`));
  assert.deepEqual(wide, []);
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= document.documentElement.clientWidth));
}

// Whether all of it can be seen without scrolling.
const isOnFirstScreen = (locator) =>
  locator.evaluate((element) => {
    const { top, bottom, height } = element.getBoundingClientRect();
    return height > 0 && top + scrollY >= 0 && bottom + scrollY <= innerHeight;
  });

async function take(page, name) {
  for (const [screen, viewport] of Object.entries({ phone: PHONE, desktop: DESKTOP })) {
    for (const colorScheme of ['light', 'dark']) {
      await page.setViewportSize(viewport);
      await page.emulateMedia({ colorScheme });
      await page.screenshot({ path: `${PICTURES}/${name}-${screen}-${colorScheme}.png`, fullPage: true });
      await fits(page);
    }
  }
}

// How well texts can be told from what is behind them (WCAG 2.2, 1.4.3), at worst.
const contrast = (page) =>
  page.evaluate(() => {
    const rgb = (text) => text.match(/[\d.]+/g).map(Number);
    const light = ([r, g, b]) => {
      const part = (c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
      return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
    };
    const ground = (element) => {
      for (let one = element; one; one = one.parentElement) {
        const colour = rgb(getComputedStyle(one).backgroundColor);
        if (colour[3] !== 0) return colour;
      }
      return [255, 255, 255];
    };
    const texts = [...document.body.querySelectorAll('*')].filter((element) =>
      [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim()));
    return Math.min(...texts.map((element) => {
      const [one, other] = [light(rgb(getComputedStyle(element).color)), light(ground(element))];
      return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    }));
  });

test('numbers and charts move with the traffic of a crowd, on every screen and in both colour schemes', async () => {
  const [, admin] = await demo();
  const { page, complaints, close } = await open(admin);
  await word(page, 'live');
  const before = number(await cell(page, 'client.total'));
  await eventually('more client polls', async () => number(await cell(page, 'client.total')) > before + 100);
  await eventually('polls saved', async () => number((await cell(page, 'avoided')).split(/\s/)[0]) > 50);
  await eventually('a chart', async () => (await page.locator('#chart path.up').getAttribute('d')).length > 200);
  assert.equal(await cell(page, 'state'), 'up');
  assert.equal(await cell(page, 'hour.errors'), '0');
  assert.match(await cell(page, 'hit.p50'), /^[\d.]+\s(µs|ms)$/);
  assert.ok(number(await cell(page, 'tasks.processing')) > 0, 'tasks under way');
  assert.match(await page.locator('[data-rows="callers"] th').first().textContent(), /^[0-9a-f]{8}$/);
  assert.equal(await page.title(), '● up · pollgate');
  await eventually('the last hour', async () => (await page.locator('#hour-state path.up').getAttribute('d')) !== '');
  const tasks = await page.locator('[data-rows="asked"] tr').allTextContents();
  assert.ok(tasks.length > 5 && tasks.every((row) => /\d+(\.\d+)?\s\/s(queued|processing)/.test(row)), tasks.join('\n'));
  await page.getByText('All settings').click();
  assert.match(await page.locator('details', { hasText: 'All settings' }).textContent(), /cache\.stale_if_error10m/);
  await take(page, 'demo');
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    const worst = await contrast(page);
    assert.ok(worst >= 4.5, `${colorScheme}: ${worst}`);
  }
  await page.getByRole('button', { name: 'Pause' }).click();
  await word(page, 'paused');
  const still = await cell(page, 'client.total');
  await new Promise((resolve) => setTimeout(resolve, 1500));
  assert.equal(await cell(page, 'client.total'), still);
  await page.getByRole('button', { name: 'Resume' }).click();
  await word(page, 'live');
  await eventually('more polls after the pause', async () => (await cell(page, 'client.total')) !== still);
  assert.deepEqual(complaints, []);
  await close();
});

test('the look-up says why, with JavaScript and without', async () => {
  const [, upstream] = await start(['simulate', '--listen', '127.0.0.1:0']);
  const [, gateway, admin] = await serve(upstream);
  const headers = { authorization: 'Bearer sk-page', 'content-type': 'application/json' };
  const make = (body) => fetch(`${gateway}/v1/videos`, { method: 'POST', headers, body: JSON.stringify(body) });
  const task = await (await make({ model: 'sora-2', prompt: 'p', simulate: { lifetime: '0s' } })).json();
  for (const path of ['/v1/videos/', '/v1/video/generations/']) await fetch(gateway + path + task.id, { headers });
  for (const javaScriptEnabled of [true, false]) {
    const { page, complaints, close } = await open(admin, { javaScriptEnabled });
    await page.getByLabel('Task id, path or URL').fill(`${gateway}/v1/videos/${task.id}`);
    await page.getByRole('button', { name: 'Look up' }).click();
    const found = page.locator('.found');
    await found.getByText('cache.succeeded_ttl').first().waitFor();
    assert.equal(await found.locator('article').count(), 2, 'one for each path');
    const text = await found.textContent();
    assert.match(text, /succeeded, 100/);
    assert.match(text, /accepted by upstream/);
    assert.ok(!text.includes('sk-page') && !text.includes('http'), text);
    if (javaScriptEnabled) {
      await word(page, 'live');
      await take(page, 'look-up');
    } else {
      assert.ok(number(await cell(page, 'client.total')) >= 2, 'numbers without JavaScript');
      assert.equal(await page.getByRole('button', { name: 'Pause' }).count(), 0);
      await take(page, 'without-javascript');
    }
    await page.getByLabel('Task id, path or URL').fill('<b>no-such</b>');
    await page.keyboard.press('Enter');
    await found.getByText('Nothing is cached of it').waitFor();
    assert.equal(await found.locator('b').count(), 0);
    assert.deepEqual(complaints, []);
    await close();
  }
});

test('a broken upstream is seen, and so is the end of pollgate and its return', async () => {
  const [upstream, address] = await start(['simulate', '--listen', '127.0.0.1:0']);
  const [process, gateway, admin] = await serve(address);
  const headers = { authorization: 'Bearer sk-page', 'content-type': 'application/json' };
  const body = JSON.stringify({ model: 'sora-2', prompt: 'p', simulate: { lifetime: '1h' } });
  const task = await (await fetch(`${gateway}/v1/videos`, { method: 'POST', headers, body })).json();
  const poll = (id) => fetch(`${gateway}/v1/videos/${id}`, { headers: { ...headers, 'cache-control': 'no-cache' } });
  assert.equal((await poll(task.id)).status, 200);
  const { page, complaints, close } = await open(admin);
  await word(page, 'live');
  upstream.kill('SIGKILL');
  await once(upstream, 'exit');
  // Of one task only the first failures count.
  let asked = 0;
  await eventually('upstream is down', async () => {
    await Promise.all([poll(task.id), poll(`unknown-${asked++}`), poll(`unknown-${asked++}`)]);
    return (await cell(page, 'state')) === 'down';
  });
  await eventually('all three sides of it', async () => {
    const rows = await page.locator('[data-rows="errors"] th').allTextContents();
    return ['upstream failed', 'hidden from the client', 'a client saw it'].every((seen) => rows.includes(seen));
  });
  assert.match(await page.locator('[data-rows="errors"]').textContent(), /upstream_unavailable/);
  assert.equal(await page.title(), '▲ down · pollgate');
  assert.match(await cell(page, 'state.since'), /^Since \d\d:\d\d:\d\d UTC: .+\.$/);
  assert.match(await page.locator('[data-rows="incidents"] tr').first().textContent(), /^down.* – now/);
  assert.ok(number(await cell(page, 'hour.errors')) > 0, 'errors that clients saw');
  await eventually('an hour with errors in it', async () => (await page.locator('#hour-errors path').getAttribute('d')) !== '');
  await page.evaluate((id) => { document.getElementById('task').value = id; }, task.id);
  await take(page, 'broken');
  await page.setViewportSize(PHONE);
  for (const name of ['state', 'state.since', 'state.detail', 'hour.errors', 'hour.errors.now']) {
    assert.ok(await isOnFirstScreen(page.locator(`[data-cell="${name}"]`)), `${name} on a phone's first screen`);
  }
  await page.setViewportSize(DESKTOP);
  for (const place of ['#task', '[data-rows="incidents"] tr', '#hour-state']) {
    assert.ok(await isOnFirstScreen(page.locator(place).first()), `${place} on a desk's first screen`);
  }
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    const worst = await contrast(page);
    assert.ok(worst >= 4.5, `${colorScheme}: ${worst}`);
  }
  assert.deepEqual(complaints, []);

  const stopped = Date.now();
  process.kill('SIGTERM');
  await once(process, 'exit');
  assert.ok(Date.now() - stopped < 15_000, 'a watcher does not delay the end for limits.drain');
  await word(page, 'disconnected');
  assert.equal(await page.title(), '? disconnected · pollgate', 'the state of upstream is not known any more');
  await eventually('how long ago', async () => /last update \d+ s ago/.test(await page.locator('#stream-detail').textContent()));
  await take(page, 'disconnected');
  await serve('http://127.0.0.1:1', new URL(admin).host);
  await word(page, 'live');
  await close();
});

test('an incident is there when the page is opened after it, and a pause has its own word', async () => {
  const upstream = await simulator();
  const [, gateway, admin] = await serve(upstream.url);
  const headers = { authorization: 'Bearer sk-page' };
  const poll = async (id) => (await fetch(`${gateway}/v1/videos/${id}`, { headers })).status;
  const state = async () => {
    const html = await (await fetch(admin, { headers: { accept: 'text/html' } })).text();
    return /data-cell="state">([^<]*)</.exec(html)[1];
  };
  // Of one task only the first failures count.
  let asked = 0;
  const until = (wanted) => eventually(wanted, async () => (await poll(`unknown-${asked++}`), (await state()) === wanted));
  await until('up');
  await upstream.faults({ fault: '503' });
  await until('down');
  await upstream.faults({ fault: '429-empty' });
  await until('paused');
  const { page, complaints, close } = await open(admin);
  await word(page, 'live');
  assert.equal(await page.title(), '❚❚ paused · pollgate');
  await take(page, 'paused');
  await close();
  await upstream.faults();
  await until('up');
  const after = await open(admin);
  await word(after.page, 'live');
  const incidents = await after.page.locator('[data-rows="incidents"] tr').allTextContents();
  assert.equal(incidents.length, 2);
  assert.match(incidents[0], /^paused.*429 Too Many Requests/);
  assert.match(incidents[1], /^down.*503 Service Unavailable/);
  assert.ok(incidents.every((row) => !row.includes('now')), 'both are over');
  await eventually('a bar of the outage', async () => (await after.page.locator('#hour-state path.down').getAttribute('d')) !== '');
  await take(after.page, 'after');
  assert.deepEqual([...complaints, ...after.complaints], []);
  await after.close();
});
