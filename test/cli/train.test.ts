/** `cmap train` as a user runs it, a kill by the system included. */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { type LogEntry, readLosses } from '../../src/train/loop.ts';
import { root } from '../support.ts';
import { commandIn } from './command.ts';

const test = suite('cmap train');
const folder = mkdtempSync(join(tmpdir(), 'cmap-train-cli-'));
test.after(() => rmSync(folder, { recursive: true, force: true }));
const { cmap, refused } = commandIn(folder);

const net =
  '{"image_size":28,"num_channels":1,"nf":8,"ch_mult":[1],"num_res_blocks":1,"attn_resolutions":[],"patch_size":4}';
const settings = [
  ...['dataset=fashion-mnist-1000', `net_config=${net}`, 'batch=2', 'dropout=0.1', 'averages=0.9'],
  ...['schedule=constant', 'sample_every=0', 'log_every=5', 'checkpoint_every=20'],
];
const at = (...names: string[]) => join(folder, ...names);

test('killed by the system after a checkpoint, it goes on bit for bit with nothing but --out', async () => {
  const all = ['fashion-mnist-edm', ...settings, 'steps=60'];
  const child = spawn(process.execPath, [join(root, 'dist', 'cli.js'), 'train', ...all, '--out', 'killed'], {
    cwd: folder,
    stdio: 'ignore',
  });
  const ended = new Promise((resolve) => child.on('exit', (_, signal) => resolve(signal)));
  const checkpoint = at('killed', 'checkpoint.safetensors');
  while (!existsSync(checkpoint) && child.exitCode === null) await new Promise((r) => setTimeout(r, 5));
  child.kill('SIGKILL');
  assert.is(await ended, 'SIGKILL');
  assert.not(existsSync(at('killed', 'weights.safetensors')), 'it was not done');

  const resumed = cmap(['train', '--resume', '--out', 'killed', '-q']);
  assert.is(resumed.status, 0, resumed.lines.join('\n'));
  assert.match(resumed.stdout, /^60 of 60 updates, last loss \d/);
  const whole = cmap(['train', ...all, '--out', 'whole', '-q']);
  assert.is(whole.status, 0, whole.lines.join('\n'));
  for (const name of ['checkpoint.safetensors', 'weights.safetensors', 'config.json', 'net.json'])
    assert.ok(readFileSync(at('killed', name)).equals(readFileSync(at('whole', name))), name);
  const timeless = ({ seconds, images_per_second, waited, ...entry }: LogEntry) => entry;
  assert.equal(readLosses(at('killed')).map(timeless), readLosses(at('whole')).map(timeless));
  for (const picture of ['loss.svg', 'loss.png']) assert.ok(existsSync(at('whole', picture)), picture);
});

test('a finished run says so in a line, changes nothing, and goes on with more steps', () => {
  const state = () =>
    readdirSync(at('whole')).map((name) => [name, statSync(at('whole', name)).mtimeMs].join(' '));
  const before = state();
  const { status, stdout, lines } = cmap(['train', '--resume', '--out', 'whole']);
  assert.equal([status, lines], [0, []]);
  assert.is(
    stdout,
    'whole: is finished: 60 of 60 updates are made; go on with --resume steps=M, M above 60\n',
  );
  refused(['train', '--resume', '--out', 'whole', 'steps=10'], /has had 60 updates, more than steps=10/);
  refused(['train', '--resume', '--out', 'whole', 'batch=4'], /was trained with batch=2, not 4/);
  refused(
    ['train', 'fashion-mnist-ect', '--resume', '--out', 'whole'],
    /holds a run of task=edm, .*-ect has task=ect/,
  );
  refused(
    ['train', 'fashion-mnist-edm', ...settings, '--out', 'whole'],
    /is there already; go on with --resume/,
  );
  assert.equal(state(), before);
  const more = cmap(['train', '--resume', '--out', 'whole', 'steps=62', '-q']);
  assert.match(more.stdout, /^62 of 62 updates/, more.lines.join('\n'));
});

test('--config takes the settings that a run wrote, and others on top', () => {
  const shown = cmap(['train', '--config', 'whole/config.json', 'seed=7', '--out', 'x', '--show']);
  const wrote = JSON.parse(readFileSync(at('whole', 'config.json'), 'utf8'));
  assert.equal(JSON.parse(shown.stdout), { ...wrote, seed: 7 });
  writeFileSync(at('wrong.json'), '{"clip":-1}');
  refused(['train', '--config', 'wrong.json', '--out', 'x'], /clip must be at least 0/);
  refused(['train', '--config', 'nowhere.json', '--out', 'x'], /nowhere.json/);
  refused(['train', '--config', 'whole/config.json'], /--out DIR is wanted where there is no preset/);
  refused(['train', 'fashion-mnist-edm', '--config', 'wrong.json'], /are two beginnings; give one/);
  refused(
    ['train', '--resume', '--config', 'wrong.json', '--out', 'whole'],
    /--resume takes the settings of the chec/,
  );
  refused(['train'], /give a preset, --config FILE or --resume; presets are fashion-mnist-edm, /);
  refused(['train', '--resume', '--out', 'nothing'], /there is nothing to resume/);
  assert.not(existsSync(at('x')) || existsSync(at('out')));
});

test.run();
