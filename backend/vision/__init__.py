"""Pixels in, detections and embeddings out. Knows nothing of Label Studio.

bytes --picture.decode--> Picture --Models.prepare--> ImageInputs --Models.observe--> Observation

picture.py      bytes -> upright RGB pixels             weights.py   where weights may come from
letterbox.py    a picture -> the detector's input       export.py    conversion, once, cached
detector.py     the contract of a detector              encoder.py   the contract of an encoder
yolo.py         Ultralytics behind that contract        clip.py      OpenCLIP behind that contract
exports.py      .onnx and OpenVINO files of others      crops.py     the most uncertain objects
decoder.py      raw head output -> Detections           engines.py   what runs a network: OpenVINO
models.py       the settings -> everything, loaded                   on a CPU, torch on a GPU
pipeline.py     decoding threads beside one worker
"""
