/** Image files as data sets hold them: JPEG and PNG against PIL, and damaged ones. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { InputError } from '../../src/engine/errors.ts';
import { toRgb } from '../../src/formats/image.ts';
import { decodeJpeg, readJpeg } from '../../src/formats/jpeg.ts';
import { decodeOpaquePng } from '../../src/formats/png.ts';
import { fuzz, numbers, refuses, temporaryFolder } from '../formats/fuzz.ts';
import { loadFixture } from '../support.ts';

const fixture = loadFixture('data/images');
const names: string[] = JSON.parse(fixture.metadata.files as string);
const file = (name: string) => fixture.get(`${name}.file`).data as unknown as Uint8Array;

async function rejects(promise: Promise<unknown>, ...parts: string[]): Promise<void> {
  const result = await promise.then(
    (value) => () => value,
    (error) => () => {
      throw error;
    },
  );
  refuses(result, ...parts);
}

for (const name of names.filter((name) => fixture.has(`${name}.rgb`))) {
  test(`${name}: the pixels that PIL gives`, async () => {
    const bytes = file(name);
    const image = toRgb(name.endsWith('jpg') ? await decodeJpeg(bytes, name) : decodeOpaquePng(bytes, name));
    const { data, shape } = fixture.get(`${name}.rgb`);
    assert.equal([image.height, image.width, image.channels], shape);
    assert.equal(image.data, data);
  });
}

test('what PIL would turn into something else is refused', async () => {
  await rejects(decodeJpeg(file('cmyk.jpg'), 'cmyk.jpg'), 'cmyk.jpg: a CMYK JPEG', 'convert it to RGB');
  refuses(() => decodeOpaquePng(file('gray-16-bit.png'), 'deep.png'), 'deep.png', '16-bit gray');
});

test('a JPEG file that is none, or is cut', async () => {
  const good = file('420.jpg');
  await rejects(decodeJpeg(new Uint8Array(0), 'a.jpg'), 'a.jpg: not a JPEG');
  await rejects(decodeJpeg(file('rgb.png'), 'a.jpg'), 'a.jpg: not a JPEG');
  await rejects(decodeJpeg(good.subarray(0, 100), 'a.jpg'), 'truncated');
  await rejects(decodeJpeg(good.subarray(0, good.length - 200), 'a.jpg'), 'truncated: 45 x 37');
  // Without its last two bytes, the end marker, PIL refuses a file too.
  await rejects(decodeJpeg(good.subarray(0, good.length - 2), 'a.jpg'), 'truncated: 45 x 37');
  await rejects(readJpeg(join(temporaryFolder(), 'none.jpg')), 'none.jpg', 'no such file');
  const path = join(temporaryFolder(), 'good.jpg');
  writeFileSync(path, good);
  assert.is((await readJpeg(path)).width, 45);
});

test('a JPEG of too many pixels is refused before it is decoded', async () => {
  const large = file('420.jpg').slice();
  const frame = large.findIndex((byte, i) => byte === 0xff && large[i + 1] === 0xc0);
  large.fill(0xff, frame + 5, frame + 9);
  await rejects(decodeJpeg(large, 'large.jpg'), '65535 x 65535', '4096 x 4096');
});

test('damaged JPEG files are read or refused, and the next one is read', async () => {
  const good = file('progressive.jpg');
  const random = numbers(1);
  const below = (n: number) => Math.floor(random() * n);
  let refused = 0;
  for (let round = 0; round < 200; round++) {
    const bad = good.slice(0, random() < 0.2 ? below(good.length) : good.length);
    for (let change = below(4); change >= 0 && bad.length > 0; change--)
      bad[below(random() < 0.7 ? Math.min(700, bad.length) : bad.length)] = below(256);
    // A frame header of a damaged size may ask for many pixels; those below the limit cost only time.
    try {
      await decodeJpeg(bad, 'fuzz');
    } catch (error) {
      refused++;
      assert.instance(error, InputError, String((error as Error).stack));
      assert.match((error as Error).message, /^fuzz: [^\n]+$/);
    }
  }
  assert.ok(refused > 50, `${refused} refused`);
  assert.equal(toRgb(await decodeJpeg(good, 'good')).data, fixture.get('progressive.jpg.rgb').data);
});

test('damaged PNG files are read or refused', () => {
  fuzz(file('rgb-key.png'), (bytes) => decodeOpaquePng(bytes, 'fuzz'), 60, 100);
});

test.run();
