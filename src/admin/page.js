'use strict';
// Updates texts, tables and charts from the events of /live. The server writes all texts.
const $ = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const SVG = 'http://www.w3.org/2000/svg';
const POINTS = 120;

let events = null;
let last = 0;
let state = 'static';
let again = 0;
let paused = false;

function show({ cells, tables, charts }) {
  const text = (element, value) => {
    if (value !== undefined && element.textContent !== value) element.textContent = value;
  };
  for (const element of all('[data-cell]')) text(element, cells[element.dataset.cell]);
  for (const element of all('[data-value]')) element.setAttribute('value', cells[element.dataset.value]);
  for (const element of all('[data-state]')) element.dataset.is = cells[element.dataset.state];
  for (const body of all('[data-rows]')) rows(body, tables[body.dataset.rows] ?? [], text);
  for (const svg of all('[data-spark]')) {
    const points = charts[svg.dataset.spark] ?? [];
    draw(svg, 120, 18, Math.max(1, ...points), [['line', points]]);
  }
  polls('chart', 'two minutes', charts.client ?? [], charts.upstream ?? []);
  polls('hour-polls', 'hour', charts['hour.client'] ?? [], charts['hour.upstream'] ?? []);
  errors(charts['hour.errors'] ?? []);
  states(charts['hour.state'] ?? []);
  document.title = cells.title;
}

function rows(body, wanted, text) {
  while (body.rows.length > wanted.length) body.deleteRow(-1);
  wanted.forEach(({ kind, cells }, index) => {
    const row = body.rows[index] ?? body.insertRow();
    row.dataset.kind = kind;
    row.setAttribute('role', 'row');
    cells.forEach((value, column) => {
      let cell = row.cells[column];
      if (!cell) {
        cell = document.createElement(column ? 'td' : 'th');
        cell.setAttribute('role', column ? 'cell' : 'rowheader');
        if (!column) cell.scope = 'row';
        row.append(cell);
      }
      if (value.task === undefined) text(cell, value);
      else if (cell.textContent !== value.task || !cell.firstElementChild) {
        const link = document.createElement('a');
        link.href = `/?task=${encodeURIComponent(value.task)}#why`;
        link.textContent = value.task;
        cell.replaceChildren(link);
      }
    });
  });
}

function polls(id, span, client, upstream) {
  const most = Math.max(1, ...client, ...upstream);
  draw($(id), 600, 140, most, [['area', client], ['line', client], ['line up', upstream]]);
  const per = (points) => `${Math.round(points.at(-1) ?? 0)} per second`;
  $(`${id}-top`).textContent = client.length ? `${Math.round(most)} /s` : '';
  const highest = Math.round(Math.max(0, ...client));
  const label = `Over the last ${span}: clients’ polls now ${per(client)}, at most ${highest}; upstream’s now ${per(upstream)}`;
  $(id).setAttribute('aria-label', label);
}

function errors(points) {
  const most = Math.max(0, ...points);
  const said = most >= 10 ? Math.round(most) : Number(most.toFixed(2));
  bars($('hour-errors'), [['bars', points.map((value) => (most ? value / most : 0))]]);
  $('hour-errors-top').textContent = most ? `errors, at most ${said} /s` : 'no errors';
  $('hour-errors').setAttribute('aria-label', `Errors that clients saw over the last hour: at most ${said} per second`);
}

// Height tells the states apart, not only colour.
function states(numbers) {
  const kinds = [['up', 1, 0.25], ['failing', 2, 0.55], ['held', 3, 0.75], ['down', 4, 1]];
  bars($('hour-state'), kinds.map(([kind, number, height]) => [kind, numbers.map((one) => (one === number ? height : 0))]));
  const minutes = (number) => Math.ceil(numbers.filter((one) => one === number).length / 2);
  const label = `Upstream over the last hour: down for ${minutes(4)} minutes, paused for ${minutes(3)}, failing for ${minutes(2)}`;
  $('hour-state').setAttribute('aria-label', label);
}

// The path with this index and class, which is made the first time.
function path(svg, index, kind) {
  if (!svg.children[index]) {
    const added = document.createElementNS(SVG, 'path');
    added.setAttribute('class', kind);
    svg.append(added);
  }
  return svg.children[index];
}

// Draws bars of heights from 0 to 1; the latest is at the right edge.
function bars(svg, series) {
  svg.setAttribute('viewBox', `0 0 ${POINTS} 100`);
  series.forEach(([kind, heights], index) => {
    const bar = (height, at) => {
      const y = 100 - Math.max(4, height * 100);
      return height > 0 ? `M${POINTS - heights.length + at},100V${y.toFixed(0)}h1V100Z` : '';
    };
    path(svg, index, kind).setAttribute('d', heights.map(bar).join(''));
  });
}

// Draws lines and areas; the latest point is at the right edge.
function draw(svg, width, height, most, series) {
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  svg.setAttribute('preserveAspectRatio', 'none');
  series.forEach(([kind, points], index) => {
    const x = (at) => (((POINTS - points.length + at) / (POINTS - 1)) * width).toFixed(1);
    const y = (value) => (height - 1.5 - (value / most) * (height - 6)).toFixed(1);
    const line = points.map((value, at) => `${x(at)},${y(value)}`).join('L');
    const area = kind === 'area' && points.length > 1;
    path(svg, index, kind).setAttribute('d', points.length < 2 ? '' : area ? `M${x(0)},${height}L${line}V${height}Z` : `M${line}`);
  });
}

// Screen readers announce the word when it changes, but not the seconds beside it.
function become(next) {
  state = next;
  $('stream').dataset.is = next;
  const word = { live: 'live', paused: 'updates paused', lost: 'disconnected', static: 'connecting' }[next];
  if ($('stream-word').textContent !== word) $('stream-word').textContent = word;
  if (next === 'lost') document.title = '? disconnected · pollgate';
  tell();
}

function tell() {
  const seconds = Math.round((Date.now() - last) / 1000);
  const quiet = state === 'live' && seconds < 4;
  $('stream-detail').textContent = last && !quiet ? `last update ${seconds} s ago` : '';
}

function connect() {
  clearTimeout(again);
  events?.close();
  if (paused || document.hidden) return;
  events = new EventSource('/live');
  events.addEventListener('view', (event) => {
    last = Date.now();
    show(JSON.parse(event.data));
    become('live');
  });
  events.addEventListener('bye', () => lose(3000));
  events.onerror = () => lose(5000);
}

function lose(pause) {
  events.close();
  become('lost');
  clearTimeout(again);
  again = setTimeout(connect, pause);
}

$('pause').addEventListener('click', () => {
  paused = !paused;
  $('pause').textContent = paused ? 'Resume' : 'Pause';
  if (paused) {
    clearTimeout(again);
    events?.close();
    become('paused');
  } else {
    become('static');
    connect();
  }
});
// A hidden page does not watch.
document.addEventListener('visibilitychange', () => {
  if (document.hidden) events?.close();
  else connect();
});
setInterval(() => {
  tell();
  // A dead connection may never report its end.
  if (state === 'live' && !document.hidden && Date.now() - last > 10_000) lose(0);
}, 1000);

document.documentElement.classList.add('js');
$('pause').hidden = false;
become('static');
connect();
