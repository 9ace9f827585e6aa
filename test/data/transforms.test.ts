import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { centerCrop, evaluationTransform, resizeBilinear } from '../../src/data/transforms.ts';
import type { Image } from '../../src/formats/image.ts';
import { refuses } from '../formats/fuzz.ts';
import { loadFixture } from '../support.ts';

/** Noise; test/fixtures/data/transforms.py computes the same. */
function picture(width: number, height: number, channels: 1 | 3): Image {
  const data = new Uint8Array(width * height * channels).map((_, i) => {
    let v = Math.imul(i, 0x9e3779b1) >>> 0;
    v = Math.imul(v ^ (v >>> 16), 0x85ebca6b) >>> 0;
    return v ^ (v >>> 13);
  });
  return { width, height, channels, data };
}

const fixture = loadFixture('data/transforms');
// biome-ignore lint/suspicious/noExplicitAny: attributes are whatever the fixture's script wrote
for (const [name, attributes] of Object.entries(fixture.cases) as [string, any][]) {
  test(`${name}: every bit as PIL`, () => {
    const { op, width, height, channels, toWidth, toHeight, size } = attributes;
    const image = picture(width, height, channels);
    const { data, shape } = fixture.get(name);
    if (op === 'resize') {
      const resized = resizeBilinear(image, toHeight, toWidth);
      assert.equal([resized.height, resized.width, resized.channels], shape);
      assert.equal(resized.data, data);
    } else {
      const got = evaluationTransform(image, size);
      assert.equal(
        got,
        Float32Array.from(data, (value) => value / 255),
      );
    }
  });
}

test('sizes that cannot be are refused', () => {
  const image = picture(10, 12, 1);
  refuses(() => resizeBilinear(image, 0, 5), 'resize', '0 x 5');
  refuses(() => resizeBilinear(image, 5, 2.5), '2.5');
  refuses(() => centerCrop(image, 11), 'crop', '10 x 12', '11 x 11');
});

test.run();
