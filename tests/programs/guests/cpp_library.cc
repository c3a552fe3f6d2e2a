// iostream, locale formatting, sort, maps, random engines, chrono, regex.
#include <algorithm>
#include <chrono>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <map>
#include <numeric>
#include <random>
#include <regex>
#include <sstream>
#include <unordered_map>

int main() {
  std::random_device device;
  std::mt19937_64 engine(device());
  std::vector<unsigned long> values(20000);
  for (auto& value : values) value = engine() % 100000;
  std::unordered_map<unsigned long, int> counts;
  for (const auto value : values) ++counts[value];
  std::sort(values.begin(), values.end());
  std::stable_sort(values.begin(), values.end(), [](auto a, auto b) { return a % 1000 < b % 1000; });
  const std::map<unsigned long, int> sorted(counts.begin(), counts.end());
  std::normal_distribution<double> normal(5, 2);
  double sum = 0;
  for (int i = 0; i < 1000; ++i) sum += normal(engine);
  std::cout << values.front() << ' ' << values[777] << ' ' << counts.size() << ' ' << counts.begin()->first
            << ' ' << sorted.begin()->first << ' ' << std::setprecision(17) << sum << std::endl;
  std::ofstream("file.txt") << "alpha 12 beta 345\n";
  std::ifstream in("file.txt");
  std::string line;
  std::getline(in, line);
  const std::regex pairs("[a-z]+ ([0-9]+)");
  for (std::sregex_iterator i(line.begin(), line.end(), pairs), end; i != end; ++i)
    std::cout << (*i)[1] << '\n';
  std::cout << std::chrono::system_clock::now().time_since_epoch().count() << '\n';
  return in.good() ? 0 : 1;
}
