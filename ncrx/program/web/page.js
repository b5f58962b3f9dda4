// SPDX-License-Identifier: GPL-2.0

// The page for people. All that comes from the server is shown as text: nothing here makes markup
// of a string.

'use strict';

const LINES = 500;
const get = id => document.getElementById(id);

// Returns an element with this text, or with these children.
function make(tag, content = '', name = '') {
  const element = document.createElement(tag);
  if (Array.isArray(content)) element.append(...content);
  else element.textContent = content;
  if (name) element.className = name;
  return element;
}

async function ask(path, query = {}) {
  const answer = await fetch(path + '?' + new URLSearchParams(query));
  if (!answer.ok) throw new Error((await answer.text()).trim() || answer.statusText);
  return answer.json();
}

// Runs it, and says if it fails.
async function attempt(what) {
  try {
    await what();
    get('trouble').textContent = '';
  } catch (e) {
    get('trouble').textContent = e.message;
  }
}

function ago(seconds) {
  if (seconds < 100) return seconds + ' s';
  if (seconds < 6000) return Math.floor(seconds / 60) + ' min';
  if (seconds < 172800) return Math.floor(seconds / 3600) + ' h';
  return Math.floor(seconds / 86400) + ' d';
}

const none = value => value ?? '-';
const date = text => (text ? text.slice(0, 19).replace('T', ' ') : '-');

// Hosts

const COLUMNS = [
  ['Host', 'name', host => host.host],
  ['State', 'state', host => host.state],
  ['Heard', 'heard', host => ago(host.silent)],
  ['Records/s', 'rate', host => host.rate.toFixed(1)],
  ['Lag', 'lag', host => none(host.lag)],
  ['Missing', 'missing', host => host.missing],
  ['Crashes', 'crashes', host => host.crashes],
  ['Last crash', 'crashes', host => date(host.crashed)],
  ['Boots', '', host => host.boots],
  ['Release', '', host => none(host.release)],
  ['Address', '', host => host.address],
];
let sort = 'state';
let page = 0;

async function showHosts() {
  const query = { q: get('hosts-text').value, state: get('hosts-state').value, sort, page };
  const found = await ask('api/hosts', query);
  page = found.page;
  const states = found.states.map(([state, count]) => make('span', `${count} ${state} `, state));
  get('states').replaceChildren(...states);
  get('hosts-page').textContent = `${found.total} hosts, page ${page + 1} of ${Math.max(found.pages, 1)}`;
  get('hosts-back').disabled = page === 0;
  get('hosts-next').disabled = page + 1 >= found.pages;
  const row = host => {
    const cells = COLUMNS.map(([, , cell]) => make('td', cell(host)));
    const link = make('a', host.host);
    link.href = '#live/' + encodeURIComponent(host.host);
    cells[0].replaceChildren(link);
    cells[1].className = host.state;
    return make('tr', cells);
  };
  get('hosts-rows').replaceChildren(...found.hosts.map(row));
}

function headHosts() {
  const head = ([title, by]) => {
    const cell = make('th', title, by === sort ? 'sorted' : '');
    if (by) cell.addEventListener('click', () => { sort = by; page = 0; headHosts(); refresh(); });
    return cell;
  };
  get('hosts-head').replaceChildren(...COLUMNS.map(head));
}

// Crashes

async function showCrashes() {
  const query = { q: get('crashes-text').value, since: get('crashes-since').value };
  const found = await ask('api/crashes', query);
  const shown = found.bugs.length < found.total ? `, the last ${found.bugs.length} are shown` : '';
  get('crashes-count').textContent = `${found.total} bugs${shown}`;
  const row = bug => {
    const link = make('a', bug.title);
    link.href = '#crashes/' + bug.last_id;
    return make('tr', [
      make('td', bug.count), make('td', bug.hosts), make('td', date(bug.first)),
      make('td', date(bug.last)), make('td', bug.signature.slice(0, 8)), make('td', [link]),
    ]);
  };
  get('crashes-rows').replaceChildren(...found.bugs.map(row));
}

async function showReport(id) {
  const crash = await ask('api/crash/' + encodeURIComponent(id));
  get('report-title').textContent = crash.title;
  const facts = {
    Host: `${crash.host} (${crash.address})`, Time: crash.time, Kind: crash.kind,
    Signature: crash.signature, Release: none(crash.release), Hardware: none(crash.hardware),
    Missing: crash.missing, Complete: crash.complete ? 'yes' : 'no',
  };
  const pairs = Object.entries(facts).flatMap(([k, v]) => [make('dt', k), make('dd', v)]);
  get('report-facts').replaceChildren(...pairs);
  const stamp = line => (line.usec === null ? '' : `[${(line.usec / 1e6).toFixed(6).padStart(12)}] `);
  const text = (line, name) => make('span', stamp(line) + line.text + '\n', name);
  get('report-lines').replaceChildren(
    ...crash.before.map(line => text(line, 'before')), ...crash.lines.map(line => text(line, '')));
  get('report').hidden = false;
  get('report').scrollIntoView();
}

// What comes live

// The pause before a live view that has ended is tried again, in milliseconds.
const AGAIN = 5000;
let source = null;
let timer = null;
let paused = false;
let missed = 0;

function stopLive() {
  if (source) source.close();
  source = null;
  clearTimeout(timer);
}

// Says why a live view has ended, which its own error does not, and tries again.
async function retryLive(path) {
  let why = 'the receiver does not answer';
  try {
    const answer = await fetch(path);
    if (answer.ok) {
      why = '';
      await answer.body.cancel();
    } else {
      why = (await answer.text()).trim() || answer.statusText;
    }
  } catch {
    // It is said already.
  }
  if (source?.path !== path) return;
  get('live-trouble').textContent = why;
  timer = setTimeout(startLive, AGAIN);
}

function showMissed() {
  get('live-missed').textContent = missed ? `${missed} lines are not shown` : '';
}

function startLive() {
  stopLive();
  missed = 0;
  showMissed();
  get('live-trouble').textContent = '';
  const query = { host: get('live-host').value, q: get('live-text').value };
  if (get('live-level').value) query.level = get('live-level').value;
  const path = 'api/tail?' + new URLSearchParams(query);
  source = new EventSource(path);
  source.path = path;
  source.onopen = () => { get('live-trouble').textContent = ''; };
  source.onerror = () => {
    get('live-trouble').textContent = 'the live view is interrupted';
    if (source?.readyState === EventSource.CLOSED) retryLive(path);
  };
  source.onmessage = event => {
    const told = JSON.parse(event.data);
    missed += told.missed + (paused ? told.lines.length : 0);
    showMissed();
    if (paused) return;
    const lines = get('live-lines');
    for (const line of told.lines) {
      const at = make('time', new Date(line.time / 1000).toISOString().replace('T', ' '));
      const level = line.event ? 'event' : 'level' + (line.level ?? 6);
      lines.append(make('li', [at, make('b', line.host), make('span', line.text, level)]));
    }
    while (lines.childElementCount > LINES) lines.firstElementChild.remove();
    window.scrollTo(0, document.body.scrollHeight);
  };
}

// Rates

function draw(points) {
  const svg = get('rates');
  const most = Math.max(1, ...points.map(point => Math.max(point[1], point[2])));
  const shape = (tag, attributes, name) => {
    const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.setAttribute('class', name);
    return element;
  };
  const x = nth => nth + 900 - points.length;
  const path = of => points.map((point, nth) =>
    `${nth ? 'L' : 'M'}${x(nth)},${(98 - 96 * point[of] / most).toFixed(1)}`).join('');
  const crashes = points.flatMap((point, nth) => (point[3]
    ? [shape('line', { x1: x(nth), x2: x(nth), y1: 0, y2: 100 }, 'crash')] : []));
  svg.replaceChildren(shape('path', { d: path(1) }, 'records'), shape('path', { d: path(2) }, 'lost'), ...crashes);
  const [, records = 0, lost = 0] = points.at(-1) ?? [];
  get('legend').replaceChildren(
    make('span', `${records.toFixed(1)} records/s, `, 'records'),
    make('span', `${lost.toFixed(1)} lost/s, `, 'lost'),
    make('span', `${points.reduce((sum, point) => sum + point[3], 0)} crashes`, 'crash'),
    make('span', ` in ${Math.round(points.length / 30)} min; at most ${most.toFixed(1)}/s`));
}

// Which part is shown: #hosts, #crashes, #crashes/17, #live, #live/HOST

function shown() {
  const [name, ...rest] = location.hash.slice(1).split('/');
  const part = ['hosts', 'crashes', 'live'].includes(name) ? name : 'hosts';
  try {
    return [part, decodeURIComponent(rest.join('/'))];
  } catch {
    return [part, ''];
  }
}

function refresh() {
  const [part] = shown();
  return attempt(async () => {
    await showHosts();
    if (part === 'crashes') await showCrashes();
    draw((await ask('api/history')).points);
  });
}

function turn() {
  const [part, which] = shown();
  for (const name of ['hosts', 'crashes', 'live']) get(name).hidden = name !== part;
  get('report').hidden = true;
  stopLive();
  if (part === 'live') {
    get('live-host').value = which;
    get('live-lines').replaceChildren();
    startLive();
  }
  return refresh().then(() => (part === 'crashes' && which ? attempt(() => showReport(which)) : null));
}

get('hosts-back').addEventListener('click', () => { page -= 1; refresh(); });
get('hosts-next').addEventListener('click', () => { page += 1; refresh(); });
get('live-pause').addEventListener('click', event => {
  paused = !paused;
  event.target.textContent = paused ? 'Go on' : 'Pause';
});
for (const id of ['hosts-text', 'hosts-state', 'crashes-text', 'crashes-since']) {
  get(id).addEventListener('input', () => { page = 0; refresh(); });
}
for (const id of ['live-host', 'live-text', 'live-level']) get(id).addEventListener('change', startLive);
window.addEventListener('hashchange', turn);
get('crashes-head').replaceChildren(
  ...['Count', 'Hosts', 'First', 'Last', 'Signature', 'Title'].map(title => make('th', title)));
headHosts();
turn();
setInterval(() => { if (!document.hidden) refresh(); }, 4000);
