// Sums and maxima over the lanes of a workgroup; put before a kernel that gives each image one workgroup of THREADS
// (a power of two). The result is uniform, so that loops may depend on it. Not to be called in divergent code.
var<workgroup> lanes: array<vec2<f32>, THREADS>;

fn total2(v: vec2<f32>, lane: u32) -> vec2<f32> {
  lanes[lane] = v;
  workgroupBarrier();
  for (var s = u32(THREADS) / 2u; s > 0u; s = s / 2u) {
    if (lane < s) { lanes[lane] = lanes[lane] + lanes[lane + s]; }
    workgroupBarrier();
  }
  return workgroupUniformLoad(&lanes[0]);
}

fn total(v: f32, lane: u32) -> f32 { return total2(vec2<f32>(v, 0.0), lane).x; }

fn largest2(v: vec2<f32>, lane: u32) -> vec2<f32> {
  lanes[lane] = v;
  workgroupBarrier();
  for (var s = u32(THREADS) / 2u; s > 0u; s = s / 2u) {
    if (lane < s) { lanes[lane] = max(lanes[lane], lanes[lane + s]); }
    workgroupBarrier();
  }
  return workgroupUniformLoad(&lanes[0]);
}

