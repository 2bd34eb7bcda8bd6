// The order of the samples: the sample in every slot of every batch, a pure function of seed and slot.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "alias.h"
#include "class_index.h"
#include "philox.h"

namespace fastlt {

// How a slot's sample is drawn.
enum class Law {
  kEpochs,       // every sample once an epoch: each epoch is one permutation of all samples
  kUniform,      // any sample, with replacement
  kClassCycles,  // classes in shuffled cycles, each class's samples in shuffled cycles of their own
  kClasses,      // any class with the same probability, any sample of it
  kWeighted,     // a class with its weight's probability, any sample of it
  kMixture,      // kUniform with a probability that falls from 1 to 0, otherwise kClasses
};

enum class Simd { kScalar, kAvx2, kAvx512 };
// Returns the widest vectors that this processor has.
Simd best_simd();

struct SamplerPlan {
  Law law;
  std::uint64_t seed, batch_size;
  std::uint64_t epoch_slots;        // kEpochs: slots that share a permutation, at most the number of samples
  std::uint64_t samples_per_class;  // kClassCycles: consecutive slots that share a class
  // kMixture: the share of kClasses grows by 1 / ramp_units every ramp_slots slots, up to 1.
  std::uint64_t ramp_slots, ramp_units;
  bool shuffle_batches;  // put each batch's slots into random order
  bool unique_batches;   // use no sample twice in a batch while its class has others
};

class Sampler {
 public:
  // `weights` has one number per class for kWeighted and is empty otherwise. The index must be sorted unless
  // the law is kEpochs or kUniform.
  Sampler(std::shared_ptr<const ClassIndex> index, const SamplerPlan& plan,
          const std::vector<double>& weights);

  // Writes the samples of slots [first, first + count). Neither the number of threads nor `simd` changes
  // them.
  void draw(std::uint64_t first, std::uint64_t count, std::int64_t* out, int num_threads, Simd simd) const;

  const std::shared_ptr<const ClassIndex>& index() const { return index_; }
  const SamplerPlan& plan() const { return plan_; }
  const std::vector<AliasEntry>& alias() const { return alias_; }
  const WordStream& stream(Stream stream) const { return streams_[static_cast<int>(stream)]; }

  // Whether the laws draw positions in the class index, or samples directly.
  bool by_position() const { return plan_.law != Law::kEpochs && plan_.law != Law::kUniform; }
  // Probability, times 2^32, that a slot is drawn from a class drawn uniformly (kMixture).
  std::uint64_t mixture(std::uint64_t slot) const;
  // The position (or sample) of one slot, before a batch is repaired and shuffled: the definition that the
  // vector kernels follow.
  std::uint64_t at(std::uint64_t slot) const;

 private:
  void fill(std::uint64_t first, std::uint64_t count, std::int64_t* out, Simd simd) const;
  // How many slots, from `slot` on, the vector kernels may draw in one call; 0 if they cannot.
  std::uint32_t vector_block(std::uint64_t slot, std::uint64_t count, Simd simd) const;
  void fill_batches(std::uint64_t first, std::uint64_t count, std::int64_t* out, Simd simd) const;
  // Writes the places in drawing order of the samples that shuffling moves to slots slot ... slot + count - 1
  // of one batch.
  void shuffled_places(std::uint64_t slot, std::uint32_t count, std::uint32_t* out, Simd simd) const;
  void repair(std::uint64_t step, std::vector<std::uint64_t>& positions) const;

  std::shared_ptr<const ClassIndex> index_;
  SamplerPlan plan_;
  std::vector<AliasEntry> alias_;
  std::vector<WordStream> streams_;
};

}  // namespace fastlt
