/**
 * The command line as a user meets it: what goes wrong ends in one line on stderr, a non-zero exit and nothing half
 * written; what goes right writes what the README says.
 */
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { loadFashionMnist } from '../../src/data/fashion-mnist.ts';
import { decodePng, writePng } from '../../src/formats/png.ts';
import { root } from '../support.ts';
import { commandIn, packageCopy } from './command.ts';

const test = suite('cli');
let folder = '';
test.before(() => {
  folder = mkdtempSync(join(tmpdir(), 'cmap-cli-'));
});
test.after(() => rmSync(folder, { recursive: true, force: true }));

const { cmap, refused } = commandIn(() => folder);

function image(index = 0): string {
  const { images } = loadFashionMnist({ count: 1, offset: index });
  const path = join(folder, `image-${index}.png`);
  writePng(path, {
    width: 28,
    height: 28,
    channels: 1,
    data: Uint8Array.from(images, (v) => Math.round(255 * v)),
  });
  return path;
}

test('bad flags', () => {
  refused(['purfy'], /unknown command 'purfy'/);
  refused(['purify'], /no images: name PNG or JPEG files/);
  refused(['classify', image(), '--model', 'foo'], /no weights "foo"; there are: fashion-mnist-consistency/);
  refused(['doctor'], /profile 'foo' is none of fast, safe \(CMAP_PROFILE empty/, root, {
    CMAP_PROFILE: 'foo',
  });
  refused(['classify', image(), '--k', '0x10'], /"0x10" is not an integer/);
  refused(['classify', image(), '--seed', '9007199254740993'], /is beyond ±9007199254740991/);
  refused(['grid', folder, '--out', 'x.jpg'], /x\.jpg: the picture is a PNG; name it \.png/);
  refused(['purify', image(), '--k', '0'], /k must be an integer of at least 2 .*, got 0/);
  refused(['purify', image(), '--iterations', '1.5'], /"1.5" is not an integer/);
});

test('an adapter that does not exist', () => {
  refused(['doctor', '--adapter', 'voodoo2'], /voodoo2/);
  refused(['demo', '--count', '1'], /voodoo2/, root, { CMAP_ADAPTER: 'voodoo2' });
});

test('bad images', () => {
  refused(['purify', join(folder, 'nothing.png')], /nothing\.png/);
  const text = join(folder, 'text.png');
  writeFileSync(text, 'not a picture');
  refused(['purify', text], /text\.png: neither a PNG nor a JPEG/);
  const cut = join(folder, 'cut.png');
  writeFileSync(cut, readFileSync(image()).subarray(0, 80));
  refused(['classify', cut], /cut\.png: truncated/);
  const large = join(folder, 'large.png');
  writePng(large, { width: 32, height: 30, channels: 1, data: new Uint8Array(960) });
  refused(['classify', '--no-defence', large], /large\.png: is 32×30, the model takes 28×28/);
  assert.not.ok(existsSync(join(folder, 'out')), 'nothing was written');
});

test('damaged weights', () => {
  const copy = packageCopy(join(folder, 'copy'));
  const manifest = JSON.parse(readFileSync(join(copy, 'weights', 'manifest.json'), 'utf8'));
  const weights = join(copy, 'weights', manifest['fashion-mnist-wrn'].file);
  const whole = readFileSync(weights);
  truncateSync(weights, whole.length - 100);
  refused(
    ['classify', '--no-defence', image()],
    /truncated: has \d+ bytes, the manifest says \d+; restore it/,
    copy,
  );
  const changed = Buffer.from(whole);
  changed[changed.length - 1]! ^= 1;
  writeFileSync(weights, changed);
  refused(['classify', '--no-defence', image()], /changed or damaged/, copy);
  rmSync(weights);
  refused(['demo', '--count', '1'], /no such file/, copy);
});

test('purify writes a picture and a record; classify prints a line an image', () => {
  const paths = [image(0), image(1)];
  const args = ['--k', '2', '--iterations', '3', '--quiet'];
  const out = join(folder, 'purified');
  const run = cmap(['purify', ...paths, ...args, '--out', out]);
  assert.is(run.status, 0, run.lines.join('\n'));
  assert.equal(readdirSync(out).sort(), [
    'image-0.json',
    'image-0.purified.png',
    'image-1.json',
    'image-1.purified.png',
  ]);
  const picture = decodePng(readFileSync(join(out, 'image-0.purified.png')), 'purified');
  assert.equal([picture.width, picture.height, picture.channels], [28, 28, 1]);
  const record = JSON.parse(readFileSync(join(out, 'image-0.json'), 'utf8'));
  assert.is(
    record.votes.reduce((a: number, b: number) => a + b, 0),
    2,
  );
  assert.is(record.trace.length, 3);

  const classified = cmap(['classify', ...paths, ...args]);
  assert.is(classified.status, 0, classified.lines.join('\n'));
  assert.is(classified.stdout.trim().split('\n').length, 2);
  assert.match(classified.stdout, /image-0\.png: undefended Ankle boot; defended .+ \(.+ \d/);
});

test('doctor names the adapter and passes its self-test', () => {
  const empty = mkdtempSync(join(folder, 'tuning-'));
  const run = cmap(['doctor', '--json'], root, { CMAP_TUNING: empty });
  assert.is(run.status, 0, run.lines.join('\n'));
  const report = JSON.parse(run.stdout);
  assert.ok(report.adapters.length > 0 && report.used.name.length > 0);
  assert.is(report.selfTest.ok, true);
  assert.ok(report.selfTest.gflops > 0);
  // Of the tables that come with the project at most.
  assert.match(String(report.tuning?.path), /^undefined$|weights.tuning/);
});

test('help goes to stdout and exits with 0', () => {
  assert.match(cmap(['--version']).stdout, /^\d+\.\d+\.\d+\n$/);
  const run = cmap(['demo', '--help']);
  assert.is(run.status, 0);
  assert.match(run.stdout, /--count <n>/);
});

test.run();
