"""TFLite files on microcontrollers: TensorFlow Lite Micro, and what it needs of memory."""
